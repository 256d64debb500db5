"""What a long-running endpoint has and an evaluation has not: an admin port, traces, request lines, recordings."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

from policies.access.tls import renew
from policies.endpoint.desk import Observer
from policies.endpoint.listener import Listener, bind
from policies.endpoint.metrics import Metrics
from policies.endpoint.recording import recorder_of
from registry.errors import HallmarkError, SpecError
from registry.workspace import Workspace

if TYPE_CHECKING:
    from policies.endpoint.gateway import Gateway
    from registry.settings import Settings

log = logging.getLogger(__name__)


def observers_of(ws: Workspace, metrics: Metrics, stack: ExitStack) -> tuple[Observer, ...]:
    """Return who is told of every decided request: the recorder, and what the settings ask for; `stack` closes them."""
    recorder = recorder_of(ws)
    stack.callback(recorder.close)
    found: list[Observer] = [recorder]
    if ws.settings["log_format"] == "json":
        from policies.endpoint.lines import RequestLines

        found.append(RequestLines())
    if ws.settings["otlp_endpoint"]:
        from policies.endpoint.telemetry import Tracing

        tracing = Tracing(ws.settings["otlp_endpoint"], metrics=metrics)
        stack.callback(tracing.close)
        found.append(tracing)
    return tuple(found)


def renew_certificate(settings: Settings, context: ssl.SSLContext) -> bool:
    """Let the endpoint show the certificate that `[tls]` names now; one that cannot be used changes nothing."""
    try:
        renew(context, settings.root / settings.tls["cert"], settings.root / settings.tls["key"])
    except HallmarkError as error:
        log.warning("the endpoint goes on with the TLS certificate it has: %s", error)
        return False
    return True


def admin_socket(settings: Settings, stack: ExitStack) -> socket.socket | None:
    """Return the bound socket of `admin_port`, `PORT` (on loopback) or `HOST:PORT`; None when none is wanted.

    Raises SpecError, Locked or Refused.
    """
    text = settings["admin_port"]
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise SpecError(
            f"expected `PORT` or `HOST:PORT`, found `{text}`", field="admin_port",
            hint=f"it comes from {settings.sources['admin_port']}",
        )  # fmt: skip
    bound = bind(host.strip("[]") or "127.0.0.1", int(port))
    stack.callback(bound.close)
    return bound


def admin_of(gateway: Gateway, bound: socket.socket) -> Listener:
    """Return the admin port's listener; run its `answer` beside the endpoint's own."""
    from policies.endpoint.admin import AdminApp

    return Listener(AdminApp(gateway), bound, signals=False)


def configure_logging(settings: Settings) -> None:
    """Send what the endpoint logs to standard error, in the settings' `log_format`. Raises SpecError."""
    choice = settings["log_format"]
    if choice not in ("text", "json"):
        raise SpecError(
            f"expected `text` or `json`, found `{choice}`", field="log_format",
            hint=f"it comes from {settings.sources['log_format']}",
        )  # fmt: skip
    there = logging.StreamHandler()
    if choice == "json":
        from policies.endpoint.lines import JsonLines

        there.setFormatter(JsonLines())
    else:
        there.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(there)
    root.setLevel(logging.INFO if choice == "json" else logging.WARNING)
