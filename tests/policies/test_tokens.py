"""Signed tokens: only a good one of a configured issuer names a caller, and what is wrong with another stays unsaid."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.access import jwks, tokens
from policies.access.callers import Callers, create_key
from policies.access.jwks import KeySource
from policies.access.tokens import Issuer, Tokens
from policies.wire.refusal import Refusal
from tests.policies.issued import Time, identify, issuer_of, refused, tokens_of, unspoil
from tests.policies.running import Running, gateway_running
from tests.stubs.oidc_server import OidcServer, make_key, sign
from tests.waiting import until


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"])
def test_a_good_token_names_its_caller(algorithm: str) -> None:
    with OidcServer(algorithm) as server:
        known = tokens_of(server)
        caller = identify(known, server.issue())
        assert (caller.name, caller.groups) == ("token:corp:ada", frozenset({"members"}))
        assert identify(known, server.issue(aud=["other", "hallmark"], sub="bob")).name == "token:corp:bob"


def test_a_remembered_token_is_the_same_caller(server: OidcServer) -> None:
    known, token = tokens_of(server), server.issue()
    assert identify(known, token) is identify(known, token)


NOW = int(time.time())
WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "other"},
    "no audience": {"aud": None},
    "an audience that is a number": {"aud": 7},
    "another issuer": {"iss": "https://elsewhere"},
    "no issuer": {"iss": None},
    "an issuer that is a list": {"iss": ["x"]},
    "expired": {"exp": NOW - 3600, "iat": NOW - 7200},
    "no end": {"exp": None},
    "an end that is a text": {"exp": str(NOW + 300)},
    "an end that is true": {"exp": True},
    "an end beyond all time": {"exp": 1e300},
    "not yet valid": {"nbf": NOW + 3600},
    "a beginning that is a text": {"nbf": "now"},
    "issued in the future": {"iat": NOW + 3600, "exp": NOW + 7200},
    "never issued": {"iat": None},
    "too old": {"iat": NOW - 200_000, "exp": NOW + 300},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is a number": {"sub": 7},
    "a subject of several lines": {"sub": "ada\nroot"},
    "a subject without end": {"sub": "a" * 201},
    "groups that are numbers": {"groups": [1]},
    "groups that are a mapping": {"groups": {"members": 7, "x\n": 1}},
    "too many groups": {"groups": [f"g{number}" for number in range(300)]},
    "bound to something unknown": {"cnf": {"jkt": "x"}},
    "bound to nothing": {"cnf": {}},
    "bound to a text": {"cnf": "x"},
}


@pytest.mark.parametrize("name", WRONG_CLAIMS)
def test_wrong_claims_are_refused(server: OidcServer, name: str) -> None:
    assert refused(tokens_of(server), server.issue(**WRONG_CLAIMS[name]))


def public_pem() -> bytes:
    """Return the public key that everybody knows, as a forger would use it for HMAC."""
    public = make_key().raw_value.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


FORGED: dict[str, Callable[[OidcServer], str]] = {
    "another key under the same id": lambda s: s.issue({"kid": "k1"}, key=make_key("RS256", "forger")),
    "none": lambda s: unsigned(s, "none"),
    "None": lambda s: unsigned(s, "None"),
    "no algorithm": lambda s: unsigned(s, None),
    "hmac by the public key": lambda s: by_hmac(s, "HS256"),
    "hmac by the public key, said to be RSA": lambda s: by_hmac(s, "RS256"),
    "an algorithm that was not pinned": lambda s: s.issue({"alg": "PS256"}, key=make_key("PS256", "k1")),
    "no key id": lambda s: s.issue({"kid": None}),
    "an empty key id": lambda s: s.issue({"kid": ""}),
    "a key id that is a number": lambda s: s.issue({"kid": 1}),
    "a key in the header": lambda s: embedded(s, kid="k1"),
    "only a key in the header": lambda s: embedded(s, kid=None),
    "a place of keys in the header": lambda s: s.issue({"jku": f"{s.url}/keys"}),
    "a place of certificates": lambda s: s.issue({"x5u": f"{s.url}/certificate"}),
    "certificates in the header": lambda s: s.issue({"x5c": ["MII"]}),
    "critical extensions": lambda s: s.issue({"crit": ["exp"], "exp": 1}),
    "an unencoded payload": lambda s: s.issue({"b64": False, "crit": ["b64"]}),
    "another type": lambda s: s.issue({"typ": "dpop+jwt"}),
    "a type that is a number": lambda s: s.issue({"typ": 7}),
    "no signature": lambda s: s.issue().rpartition(".")[0] + ".",
    "four parts": lambda s: s.issue() + ".x",
    "a signature with another end": lambda s: s.issue() + "AA",
    "padding": lambda s: s.issue() + "=",
    "a line end": lambda s: s.issue() + "\n",
    "a claim named twice": lambda s: twice(s),
    "a member of the header named twice": lambda s: twice_in_header(s),
    "not a number": lambda s: sign(head(), json.dumps(s.claims()).replace("{", '{"x": NaN, ', 1).encode(), make_key()),
    "a list for claims": lambda s: sign(head(), json.dumps([s.claims()]).encode(), make_key()),
    "deep claims": lambda s: sign(head(), b"[" * 3000 + b"]" * 3000, make_key()),
    "oversized": lambda s: s.issue(filler="x" * 9000),
}


def by_hmac(server: OidcServer, algorithm: str) -> str:
    content = f"{part({'alg': algorithm, 'kid': 'k1'})}.{part(server.claims())}"
    signature = base64.urlsafe_b64encode(hmac.digest(public_pem(), content.encode(), "sha256")).rstrip(b"=")
    return f"{content}.{signature.decode()}"


def head() -> dict[str, Any]:
    return {"alg": "RS256", "kid": "k1"}


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(server: OidcServer, algorithm: str | None) -> str:
    named = {} if algorithm is None else {"alg": algorithm}
    return f"{part({**named, 'kid': 'k1'})}.{part(server.claims())}."


def embedded(server: OidcServer, kid: str | None) -> str:
    forger = make_key("RS256", "forger")
    return server.issue({"kid": kid, "jwk": forger.as_dict(private=False)}, key=forger)


def twice(server: OidcServer) -> str:
    text = json.dumps(server.claims(sub="root")).replace("{", '{"sub": "ada", ', 1)
    return sign(head(), text.encode(), make_key())


def twice_in_header(server: OidcServer) -> str:
    good = server.issue()
    header = base64.urlsafe_b64encode(b'{"alg":"none","alg":"RS256","kid":"k1"}').rstrip(b"=").decode()
    return f"{header}.{good.split('.', 1)[1]}"


@pytest.mark.parametrize("name", FORGED)
def test_forged_tokens_are_refused(server: OidcServer, name: str) -> None:
    assert refused(tokens_of(server), FORGED[name](server))


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    known = Tokens([])
    for token in (noise, b"e30." + noise + b".AA", noise + b".e30.AA"):
        with pytest.raises(Refusal) as caught:
            known.identify(token, "")
        assert caught.value.status == 401


@settings(max_examples=60, deadline=None)
@given(place=st.integers(min_value=0), char=st.sampled_from("ABab01-_.="))
def test_a_changed_token_is_refused(place: int, char: str) -> None:
    known, token = CHANGED
    place %= len(token)
    changed = token[:place] + char + token[place + 1 :]
    if changed != token:
        assert refused(known, changed)


def _offline() -> tuple[Tokens, str]:
    """Return tokens with keys from memory, and a good token."""
    data = json.dumps({"keys": [make_key("ES256").as_dict(private=False)]}).encode()
    keys = KeySource(lambda: data, refresh_s=300, keep_s=3600)
    known = Tokens([Issuer("corp", "https://login", frozenset({"hallmark"}), frozenset({"ES256"}), keys)])
    assert known.refresh()
    now = int(time.time())
    claims = {"iss": "https://login", "sub": "ada", "aud": "hallmark", "iat": now, "exp": now + 3000}
    return known, sign({"alg": "ES256", "kid": "k1"}, json.dumps(claims).encode(), make_key("ES256"))


CHANGED = _offline()


def test_groups_and_attributes_come_from_the_claims_that_settings_name(server: OidcServer) -> None:
    known = tokens_of(
        server, groups_claim="realm.roles", groups={"idp-ops": "operators"}, name_claim="email",
        claims={"purpose": "why", "tokens_per_day": "budget"}, attributes={"tokens_per_day": 10},
    )  # fmt: skip
    token = server.issue(realm={"roles": ["idp-ops", "operators"]}, email="a@b", why=["billing"], budget=1e9)
    caller = identify(known, token)
    assert (caller.name, caller.groups) == ("token:corp:a@b", frozenset({"operators"}))
    assert caller.attributes == {"purpose": ["billing"], "tokens_per_day": 10}  # what an operator set wins


def test_without_a_mapping_groups_carry_their_issuer(server: OidcServer) -> None:
    known = tokens_of(server, group_prefix="corp:")
    assert identify(known, server.issue(groups="operators all")).groups == {"corp:operators", "corp:all"}


def test_a_token_ends_even_when_it_is_remembered_and_the_clock_is_set_back(server: OidcServer) -> None:
    wall, clock = Time(time.time()), Time(100.0)
    known, token = tokens_of(server, wall=wall, clock=clock), server.issue()
    assert identify(known, token).name == "token:corp:ada"
    wall.now -= 3600
    clock.now += 320
    assert identify(known, token).name == "token:corp:ada"  # 300 s and 30 s of leeway
    clock.now += 20
    assert refused(known, token)


def test_a_token_that_is_bound_to_a_certificate_needs_it(server: OidcServer) -> None:
    known, token = tokens_of(server), server.issue(cnf={"x5t#S256": "abc"})
    for _ in range(2):
        assert refused(known, token)
        assert refused(known, token, "other")
        assert identify(known, token, "abc").name == "token:corp:ada"


def test_remembered_tokens_are_bounded(server: OidcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_REMEMBERED", 3)
    known = tokens_of(server)
    for number in range(6):
        assert identify(known, server.issue(sub=f"u{number}")).name == f"token:corp:u{number}"
    assert len(known._verified) == 3


# ---- as requests ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(oidc: OidcServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway that knows the issuer, and whose operator has sent `token:corp:eve` away."""

    def callers(rows: list[dict[str, Any]]) -> Callers:
        unspoil(oidc)  # a fixture of the module is made before those of a test, so after what the last test spoiled
        known = Tokens([issuer_of(oidc)])
        return Callers(lambda: rows, tokens=known, revoked=lambda: ["token:corp:eve"])

    with gateway_running(tmp_path_factory.mktemp("tokens"), callers=callers) as running:
        yield running


def status_of(gateway: Running, token: str) -> int:
    return httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_request_with_a_token_is_its_callers(gateway: Running, server: OidcServer) -> None:
    answer = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {server.issue()}"})
    assert (answer.status_code, answer.text)[0] == 200, answer.text
    until(lambda: "token:corp:ada" in [each["principal"] for each in gateway.log.of("gateway.decision")])
    assert status_of(gateway, gateway.keys["mia"]) == 200


def test_requests_with_wrong_tokens_are_refused_alike(gateway: Running, server: OidcServer) -> None:
    wrong = [forge(server) for name, forge in FORGED.items() if name != "a line end"]  # no header can hold one
    wrong += [server.issue(**claims) for claims in WRONG_CLAIMS.values()]
    wrong += [create_key()[0], server.issue(sub="eve"), "hk_" + server.issue()]
    with httpx.Client(base_url=gateway.url) as client:
        answers = [client.get("/v1/models", headers={"Authorization": f"Bearer {token}"}) for token in wrong]
    assert {answer.status_code for answer in answers} == {401}
    said = {answer.json()["error"]["message"] for answer in answers}
    assert said == {"this token is not valid here", "this API key is not valid here"}


def test_a_rotated_key_counts_over_http_without_a_restart(
    gateway: Running, server: OidcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "SEEK_SECONDS", 0.0)
    server.rotate("k-http")
    assert status_of(gateway, server.issue(sub="eve")) == 401  # sent away, also when her key had to be fetched
    assert status_of(gateway, server.issue()) == 200
    server.rotate("k1")
    assert status_of(gateway, server.issue()) == 200


def test_another_tenants_key_is_nobodys_here(gateway: Running, server: OidcServer) -> None:
    with OidcServer() as other:
        other.keys = [make_key("RS256", "tenant")]
        stranger = other.issue()
        forged = other.issue(iss=server.url)
    assert [status_of(gateway, token) for token in (stranger, forged)] == [401, 401]
