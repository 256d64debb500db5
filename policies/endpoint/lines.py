"""Structured logs: one JSON object a line, and one line for each decided request. No content, no exception messages."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.endpoint.exchange import Exchange

log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON. Of an exception it tells type and place: its message may quote a text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(),
        }  # fmt: skip
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0] is not None:
            place = record.exc_info[2]
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            line["exception"] = record.exc_info[0].__name__
            if place is not None:
                line["at"] = f"{place.tb_frame.f_globals.get('__name__', '')}:{place.tb_lineno}"
        return json.dumps(line, ensure_ascii=True, default=str)


class RequestLines:
    """An observer (desk.Observer) that logs every decided request at level INFO."""

    def decided(self, exchange: Exchange) -> None:
        """Log the request: who, what was decided, how long it took."""
        if not log.isEnabledFor(logging.INFO):
            return
        usage = exchange.ledger.usage
        facts = {
            "receipt": exchange.request_id,
            "surface": exchange.surface,
            "principal": exchange.caller.name if exchange.caller else "",
            "model": exchange.model,
            "status": exchange.status,
            "action": exchange.action,
            "code": exchange.code,
            "rules": list(exchange.rules),
            "certificate": exchange.served.certificate,
            "bundle": exchange.served.bundle,
            "seconds": round(exchange.seconds(), 6),
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": (usage.completion_tokens or 0) if usage else 0,
            "trace": exchange.traceparent[3:35],
        }
        log.info("%s %s", exchange.surface, exchange.status, extra={"facts": facts})
