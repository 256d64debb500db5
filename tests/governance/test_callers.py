"""Callers of the endpoint in a workspace: keys with attributes and limits, revocation, issuers and TLS of settings."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from governance import callers
from policies.access.authorize import Caller
from policies.access.callers import Callers
from policies.access.certificates import thumbprint
from policies.access.credentials import callers_of, certificates_of, revoked_callers, tls_of, tokens_of
from policies.wire.refusal import Refusal
from registry.errors import NotFound, Refused, SpecError
from registry.workspace import Workspace
from tests.stubs.oidc_server import OidcServer, make_key


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Return certificate and key of an authority that is its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, start = x509.Name([]), datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9))
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert, private


def settled(ws: Workspace, toml: str) -> Workspace:
    """Return the workspace with more settings."""
    with (ws.root / "hallmark.toml").open("a") as file:
        file.write(f"\n{toml}\n")
    return Workspace.open(ws.root)


def identify(known: Callers, token: str) -> Caller:
    found = known.identify(f"Bearer {token}".encode())
    assert isinstance(found, Caller)
    return found


def test_a_key_carries_groups_attributes_and_limits(ws: Workspace) -> None:
    attributes = {"purpose": ["billing", "audit"], "tokens_per_day": 5e5, "concurrent_requests": 2.0}
    token = callers.create(ws, "billing", ["members"], attributes=attributes, actor="operator")
    caller = identify(callers_of(ws), token)
    assert (caller.name, caller.groups, caller.attributes) == ("billing", frozenset({"members"}), attributes)
    with pytest.raises(Refused):
        callers.create(ws, "billing", [], actor="operator")


def test_a_key_may_count_only_over_a_certificate(ws: Workspace, tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    token = callers.create(ws, "bound", ["members"], certificate=cert.read_text(), actor="operator")
    assert ws.callers()[0]["certificate"] == thumbprint(cert.read_text())
    with pytest.raises(Refusal):
        callers_of(ws).identify(f"Bearer {token}".encode())
    known = callers_of(settled(ws, f'[tls]\ncert = "{cert}"\nkey = "{key}"\nclient_ca = "{cert}"\ncallers = []'))
    assert known.identify(f"Bearer {token}".encode(), cert.read_text())
    with pytest.raises(Refusal):
        known.identify(f"Bearer {token}".encode())
    with pytest.raises(SpecError, match="not a certificate"):
        callers.create(ws, "other", [], certificate=key.read_text(), actor="operator")


@pytest.mark.parametrize("name", ["", "token:corp:ada", "cert:cn:ada"])
def test_no_key_takes_a_name_that_is_given_elsewhere(ws: Workspace, name: str) -> None:
    with pytest.raises(SpecError):
        callers.create(ws, name, [], actor="operator")


def test_attributes_are_read_from_texts() -> None:
    found = callers.attributes_of(["purpose=a=b", "tool=x", "tool=y", "team="], {"tokens_per_day": 3.0, "x": None})
    assert found == {"purpose": "a=b", "tool": ["x", "y"], "team": "", "tokens_per_day": 3.0}
    for wrong in ("purpose", "=x", "tokens_per_day=9", "concurrent_requests=1"):
        with pytest.raises(SpecError):
            callers.attributes_of([wrong], {})


# ---- issuers -------------------------------------------------------------------------------------------------------


def issuer_table(server: OidcServer, **changes: Any) -> str:
    lines = {"name": "corp", "issuer": server.url, "audience": "hallmark", "algorithms": ["ES256"], **changes}
    return "[[issuers]]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())


def test_a_token_is_revoked_by_its_name_and_stays_so(ws: Workspace) -> None:
    with OidcServer("ES256") as server:
        ws = settled(ws, issuer_table(server) + '\n[issuers.groups]\nidp-eng = "members"')
        known = callers_of(ws)
        ada = identify(known, server.issue(groups=["idp-eng", "operators"]))
        assert (ada.name, ada.groups) == ("token:corp:ada", frozenset({"members"}))
        eve = server.issue(sub="eve")
        assert identify(known, eve).name == "token:corp:eve"
        assert callers.revoke(ws, "token:corp:eve", reason="left", actor="operator") == "caller"
        assert revoked_callers(ws) == ["token:corp:eve"]
        assert known.reload()
        for token in (eve, server.issue(sub="eve", groups=["x"])):
            with pytest.raises(Refusal) as caught:
                known.identify(f"Bearer {token}".encode())
            assert caught.value.status == 401
        assert identify(known, server.issue(groups=["idp-eng"])) == ada


def test_keys_lie_in_a_file_of_the_workspace_too(ws: Workspace) -> None:
    with OidcServer("ES256") as server:
        (ws.root / "corp.json").write_text(json.dumps(server.key_set()))
        known = callers_of(settled(ws, issuer_table(server, jwks="corp.json")))
        assert identify(known, server.issue()).groups == {"corp:members"}
        assert server.fetches == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithms": ["HS256"]}, "HS256"),
        ({"algorithms": ["none"]}, "none"),
        ({"algorithms": []}, "at least 1"),
        ({"audience": ""}, "at least 1"),
        ({"name": "a:b"}, "pattern"),
        ({"jwks": "http://idp.example/keys"}, "https"),
        ({"jwks": "broken.json"}, "no usable keys"),
        ({"leeway_s": 4000}, "300"),
        ({"secret": "x"}, "not permitted"),
        ({"issuer": "http://idp.example"}, "https"),
    ],
)
def test_wrong_issuers_are_refused_at_the_start(ws: Workspace, changes: dict[str, Any], message: str) -> None:
    (ws.root / "broken.json").write_text('{"keys": []}')
    with OidcServer("ES256") as server, pytest.raises(SpecError, match=message):
        callers_of(settled(ws, issuer_table(server, **changes)))


def test_two_issuers_are_told_apart_and_missing_files_are_named(ws: Workspace) -> None:
    with OidcServer("ES256") as server:
        with pytest.raises(NotFound, match="nowhere"):
            tokens_of(settled(ws, issuer_table(server, jwks="nowhere.json")))
        with pytest.raises(SpecError, match="same `name`"):
            tokens_of(settled(ws, issuer_table(server)))


def test_an_issuer_that_cannot_be_reached_stops_no_start(ws: Workspace) -> None:
    server = OidcServer("ES256")
    server.keys = [make_key("ES256")]
    with server:
        token = server.issue()
    ws = settled(ws, issuer_table(server))
    key = callers.create(ws, "mia", ["members"], actor="operator")
    known = callers_of(ws)
    assert identify(known, key).name == "mia"
    with pytest.raises(Refusal) as caught:
        known.identify(f"Bearer {token}".encode())
    assert caught.value.status == 503


# ---- TLS -----------------------------------------------------------------------------------------------------------


def test_tls_of_settings(ws: Workspace) -> None:
    assert tls_of(ws.settings) is None
    write_certificate(ws.root)
    ws = settled(ws, '[tls]\ncert = "cert.pem"\nkey = "key.pem"')
    assert tls_of(ws.settings) is not None
    assert certificates_of(ws) is None


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('cert = "cert.pem"', SpecError),
        ('cert = "cert.pem"\nkey = "none.pem"', NotFound),
        ('cert = "cert.pem"\nkey = "key.pem"\nclient_required = true', SpecError),
        ('cert = "cert.pem"\nkey = "key.pem"\ncrl = "x"', SpecError),
        ('cert = "cert.pem"\nkey = "key.pem"\nclient_ca = "cert.pem"\ncallers = ["email"]', SpecError),
        ('cert = "cert.pem"\nkey = "key.pem"\nport = 1', SpecError),
    ],
)
def test_wrong_tls_settings_are_refused(ws: Workspace, lines: str, error: type[Exception]) -> None:
    write_certificate(ws.root)
    with pytest.raises(error):
        tls_of(settled(ws, f"[tls]\n{lines}").settings)


@pytest.mark.parametrize("toml", ["issuers = 3", "tls = 'x'", "issuers = ['x']"])
def test_settings_of_another_form_are_refused(ws: Workspace, toml: str) -> None:
    text = (ws.root / "hallmark.toml").read_text()
    (ws.root / "hallmark.toml").write_text(f"{toml}\n{text}")
    with pytest.raises(SpecError):
        Workspace.open(ws.root)
