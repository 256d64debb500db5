"""Tokens of a local OIDC server, and what knows them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policies.access.authorize import Caller
from policies.access.jwks import KeySource, of_issuer
from policies.access.tokens import Issuer, Tokens
from policies.wire.refusal import Refusal
from tests.stubs.oidc_server import OidcServer, make_key


class Time:
    """A clock that tests move; as wall clock it starts at the real time, which the server's tokens speak of."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def unspoil(server: OidcServer) -> None:
    server.keys, server.status, server.delay_s, server.body, server.headers = [make_key()], 200, 0.0, None, {}
    server.fetches = 0


def issuer_of(server: OidcServer, **changes: Any) -> Issuer:
    clock = changes.pop("clock", time.monotonic)
    keys = KeySource(of_issuer(server.url), refresh_s=300, keep_s=3600, clock=clock)
    made = Issuer("corp", server.url, frozenset({"hallmark"}), frozenset({server.algorithm}), keys)
    return replace(made, **changes)


def tokens_of(server: OidcServer, *, wall: Callable[[], float] = time.time, **changes: Any) -> Tokens:
    made = Tokens([issuer_of(server, **changes)], wall=wall, clock=changes.get("clock", time.monotonic))
    assert made.refresh()
    return made


def identify(known: Tokens, token: str, thumbprint: str = "") -> Caller:
    found = known.identify(token.encode(), thumbprint)
    if isinstance(found, Caller):
        return found

    async def wait() -> Caller:
        return await found

    return asyncio.run(wait())


def refused(known: Tokens, token: str, thumbprint: str = "") -> bool:
    """Say whether a token is refused as every wrong one is."""
    with pytest.raises(Refusal) as caught:
        identify(known, token, thumbprint)
    return (caught.value.status, caught.value.code, caught.value.message) == (
        401, "invalid_token", "this token is not valid here",
    )  # fmt: skip
