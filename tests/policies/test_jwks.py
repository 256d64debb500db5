"""Keys of an issuer: fetched safely, rotated without a restart, and the last good ones kept for a while."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from policies.access import jwks
from policies.access.jwks import KeySource, check_url, of_file, of_issuer, of_url, read_keys
from policies.access.tokens import Tokens
from policies.wire.refusal import Refusal
from registry.errors import SpecError
from tests.policies.issued import Time, identify, issuer_of, refused, tokens_of
from tests.stubs.oidc_server import OidcServer, make_key
from tests.waiting import until


def test_keys_rotate_without_a_restart_and_old_ones_stop_counting(server: OidcServer) -> None:
    clock = Time(1000.0)
    known = tokens_of(server, clock=clock)
    old = server.issue()
    assert identify(known, old).name == "token:corp:ada"
    server.rotate("k2")
    fresh = server.issue()
    assert refused(known, fresh)  # fetched a moment ago: not again so soon
    assert server.fetches == 1
    clock.now += jwks.SEEK_SECONDS
    waiting: Any = known.identify(fresh.encode(), "")
    assert inspect.isawaitable(waiting)
    waiting.close()
    assert identify(known, fresh).name == "token:corp:ada"
    assert server.fetches == 2
    assert refused(known, old)


def test_those_who_wait_for_the_same_keys_fetch_once(server: OidcServer) -> None:
    clock = Time(1000.0)
    known = tokens_of(server, clock=clock)
    server.rotate("k3")
    server.delay_s = 0.1
    clock.now += jwks.SEEK_SECONDS

    async def many() -> list[Any]:
        found = [known.identify(server.issue(sub=f"u{number}").encode(), "") for number in range(5)]
        return await asyncio.gather(*found)

    assert [caller.name for caller in asyncio.run(many())] == [f"token:corp:u{number}" for number in range(5)]
    assert server.fetches == 2


def test_a_token_waits_for_the_fetch_that_is_under_way(server: OidcServer) -> None:
    known = Tokens([issuer_of(server)])
    server.delay_s = 0.2
    reading = threading.Thread(target=known.refresh)
    reading.start()
    until(lambda: known._issuers[server.url].keys._lock.locked())
    assert identify(known, server.issue()).name == "token:corp:ada"
    reading.join()
    assert server.fetches == 1


def test_the_last_good_keys_count_for_a_while(server: OidcServer) -> None:
    clock = Time(1000.0)
    known, token = tokens_of(server, clock=clock, wall=Time(time.time())), server.issue(exp=int(time.time()) + 9000)
    assert identify(known, token)
    server.status = 500
    clock.now += 3600
    assert known.refresh()
    assert identify(known, token)
    clock.now += 1
    assert not known.refresh()
    with pytest.raises(Refusal) as caught:
        identify(known, token)
    assert (caught.value.status, caught.value.retry_after) == (503, 10)
    server.status = 200
    clock.now += 10
    assert known.refresh()
    assert identify(known, token)


@pytest.mark.parametrize("spoil", ["redirect", "large", "no json", "other issuer", "no keys", "twice"])
def test_answers_that_are_no_keys_leave_the_last_ones(server: OidcServer, spoil: str) -> None:
    source = KeySource(of_issuer(server.url), refresh_s=0, keep_s=3600)
    assert source.refresh()
    if spoil == "redirect":
        server.status, server.headers = 302, {"Location": f"{server.url}/keys"}
    else:
        server.body = {
            "large": b" " * (jwks.FETCH_BYTES + 1), "no json": b"<html>", "no keys": b'{"keys": []}',
            "other issuer": json.dumps({"issuer": "https://x", "jwks_uri": f"{server.url}/keys"}).encode(),
            "twice": b'{"keys": [], "keys": []}',
        }[spoil]  # fmt: skip
    assert source.refresh()
    assert source.version == 1
    assert source.find("k1") is not None
    with pytest.raises((ValueError, OSError)):
        read_keys(of_issuer(server.url)())


def test_a_server_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.1)
    with OidcServer("ES256") as slow:
        slow.delay_s = 5
        start = time.monotonic()
        with pytest.raises((ValueError, OSError)):
            jwks.fetch(f"{slow.url}/keys")
        assert time.monotonic() - start < slow.delay_s - 1


def test_only_public_signature_keys_with_an_id_of_their_own_are_read() -> None:
    rsa, ec = make_key("RS256").as_dict(private=False), make_key("ES256", "e").as_dict(private=False)
    rows: list[Any] = [
        {**rsa, "kid": "good"},
        ec,
        {"kty": "oct", "k": "AAAA", "kid": "symmetric"},
        make_key("ES256", "p").as_dict(private=True),
        {**rsa, "kid": "enc", "use": "enc"},
        {**rsa, "kid": "ops", "key_ops": ["encrypt"]},
        {**rsa, "kid": "hs", "alg": "HS256"},
        {**rsa, "kid": "same"},
        {**ec, "kid": "same"},
        {name: value for name, value in rsa.items() if name != "kid"},
        {**ec, "kid": "broken", "x": "AAAA"},
        {"kty": "RSA", "kid": "short", "n": "AQAB" * 40, "e": "AQAB"},
        "text",
    ]
    found = read_keys(json.dumps({"keys": rows}).encode())
    assert sorted(found) == ["e", "good"]
    assert (found["good"].fits("RS256"), found["good"].fits("PS256"), found["good"].fits("ES256")) == (
        True,
        False,
        False,
    )
    assert (found["e"].fits("ES256"), found["e"].fits("ES384"), found["e"].fits("RS256")) == (True, False, False)


@pytest.mark.parametrize(
    "url", ["http://idp.example/keys", "ftp://x", "https://", "https://a:b@idp/", "https://x y/", ""]
)
def test_keys_are_fetched_safely_or_not_at_all(url: str) -> None:
    with pytest.raises(SpecError):
        check_url(url)
    with pytest.raises(SpecError):
        of_url(url)


def test_keys_of_a_file_are_read_again(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys.json", Time(0.0)
    file.write_text(json.dumps({"keys": [make_key("ES256", "a").as_dict(private=False)]}))
    source = KeySource(of_file(file), refresh_s=10, keep_s=60, clock=clock)
    assert source.refresh()
    file.write_text(json.dumps({"keys": [make_key("ES256", "b").as_dict(private=False)]}))
    assert source.refresh()
    assert source.find("b") is None
    clock.now += 10
    assert source.refresh()
    assert (source.find("a"), source.find("b") is not None) == (None, True)
