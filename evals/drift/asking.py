"""One canary asked of a served endpoint over HTTP: its answer, or that a rule refused it."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

from registry.errors import EngineFailure, Refused

log = logging.getLogger(__name__)

SECONDS, PATIENCE = 120.0, 5
"""How long an answer may take, and how often a request that came too early is sent again."""
RECEIPT, CERTIFICATE = "x-hallmark-receipt", "x-hallmark-certificate"


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back: the text, why it ended, the rules that refused it, if any, and the request's receipt."""

    text: str
    finish: str
    refused: str = ""
    receipt: str = ""

    def plain(self) -> dict[str, str]:
        """Return it as plain data."""
        return asdict(self)


def ask(url: str, key: str, path: str, body: dict[str, Any], *, certificate: str = "") -> Asked:
    """Return the answer of an endpoint to one request.

    Args:
        url: the endpoint's `http://host:port/v1`.
        key: a caller's key.
        path: `/chat/completions` or `/completions`.
        body: the request.
        certificate: what must be served; empty takes any.

    Raises:
        Refused: the key is not taken, or may not ask.
        EngineFailure: no answer, an error of the server, or an endpoint that serves another certificate.
    """
    import httpx

    headers = {"authorization": f"Bearer {key}"}
    for wait in range(PATIENCE):
        try:
            answer = httpx.post(url.rstrip("/") + path, json=body, headers=headers, timeout=SECONDS, trust_env=False)
        except httpx.HTTPError as error:
            raise EngineFailure(f"no answer from `{url}`: {error}", hint="is the endpoint running?") from None
        if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
            break
        log.info("the endpoint asks for patience, waiting")
        time.sleep(min(60.0, float(answer.headers.get("retry-after", 1 + wait))))
    served = answer.headers.get(CERTIFICATE, "")
    if certificate and served and served != certificate:
        raise EngineFailure(
            "the endpoint serves another certificate than its alias names", hint="restart it, or name the right one"
        )
    return _read(answer)


def _read(answer: Any) -> Asked:
    receipt = answer.headers.get(RECEIPT, "")
    try:
        data = answer.json()
    except ValueError:
        data = None
    choices = data.get("choices") if isinstance(data, dict) else None
    if answer.status_code == 200 and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        turn = choices[0].get("message") if "message" in choices[0] else {"content": choices[0].get("text")}
        text = turn.get("content") if isinstance(turn, dict) else ""
        return Asked(str(text or ""), str(choices[0].get("finish_reason") or ""), receipt=receipt)
    error = data.get("error") if isinstance(data, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "")
    if error.get("code") == "content_filter":
        return Asked("", "content_filter", refused=", ".join(error.get("rules") or ["?"]), receipt=receipt)
    if answer.status_code in (401, 403):
        raise Refused(f"the endpoint refuses the canaries: {message}", hint="use the key of a caller that may ask")
    raise EngineFailure(f"the endpoint answered status {answer.status_code}: {message}", hint="see its log")
