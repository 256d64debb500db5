"""What operators and monitors ask an endpoint: metrics, health, readiness, status. On a port of its own, without keys.

It changes nothing and shows no content, but names models and digests: bind it to loopback, or to a network of monitors.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from policies.endpoint.desk import Desk
from policies.endpoint.edge import Edge
from policies.endpoint.gateway import JSON, PROMETHEUS, Gateway, Receive, Scope, Send

Page = Callable[[], tuple[int, tuple[bytes, bytes], bytes]]


class AdminApp:
    """The ASGI application of the admin port; serve it with a `Listener` of its own. `edge` limits its connections."""

    def __init__(self, gateway: Gateway) -> None:
        self.edge = Edge()
        self._gateway = gateway
        self._since = time.time()
        self._pages: Mapping[str, Page] = {
            "/metrics": lambda: (200, PROMETHEUS, gateway.page()),
            "/health": lambda: (200, JSON, b'{"status":"ok"}'),
            "/ready": self._ready,
            "/status": lambda: (200, JSON, msgspec.json.encode(self.status())),
            "/openapi.json": _openapi,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one GET request."""
        if scope["type"] != "http":
            return
        page = self._pages.get(scope["path"])
        if not _named_plainly(scope["headers"]):
            status, kind, body = 421, JSON, b'{"error":{"message":"ask by address or as localhost"}}'
        elif page is None:
            status, kind, body = 404, JSON, b'{"error":{"message":"no such page"}}'
        elif scope["method"] != "GET":
            status, kind, body = 405, JSON, b'{"error":{"message":"this page takes GET"}}'
        else:
            status, kind, body = page()
        headers = [kind, (b"cache-control", b"no-store"), (b"content-length", b"%d" % len(body))]
        if scope["method"] != "GET":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def status(self) -> dict[str, Any]:
        """Return what the endpoint serves and how it stands, as plain data."""
        gateway, front = self._gateway, self._gateway.front
        log = front.decisions
        return {
            "ready": gateway.ready,
            "ending": front.ending,
            "seconds": round(time.time() - self._since, 1),
            "desks": [_desk(desk) for desk in gateway.desks],
            "requests": {
                "decided": front.metrics.decided,
                "active": front.metrics.active,
                "running": gateway.turnstile.running,
                "waiting": gateway.turnstile.waiting,
                "shed": gateway.turnstile.shed,
            },
            "connections": {"open": len(gateway.edge.open), "most": gateway.edge.limits.connections},
            "decision_log": {
                "mode": log.mode,
                "healthy": log.healthy,
                "written": log.written,
                "waiting": log.waiting,
                "lag_seconds": round(log.lag_s, 3),
                "unlogged": log.unlogged,
            },
        }

    def _ready(self) -> tuple[int, tuple[bytes, bytes], bytes]:
        if self._gateway.ready:
            return 200, JSON, b'{"status":"ok"}'
        return 503, JSON, b'{"status":"unavailable"}'


def _desk(desk: Desk) -> dict[str, Any]:
    served = desk.served
    return {
        "model": served.model,
        "certificate": served.certificate,
        "candidate": served.candidate,
        "bundle": served.bundle,
        "status": desk.model.status,
        "surfaces": sorted(served.surfaces),
        "rules": len(desk.rules),
        "active": desk.active,
        "closed": dict(desk.closed),
    }


def _openapi() -> tuple[int, tuple[bytes, bytes], bytes]:
    from policies.wire import openapi

    return 200, JSON, msgspec.json.encode(openapi.document())


def _named_plainly(headers: list[tuple[bytes, bytes]]) -> bool:
    """Say whether the Host header is an address or localhost: against DNS rebinding from a web page."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return False
    host = hosts[0].decode("latin-1")
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
