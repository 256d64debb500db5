"""Tokens of an identity provider at a served release, set up in hallmark.toml as an operator does."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from governance.cli.serve import plan_of
from policies import serve
from policies.access import jwks
from registry.records import Asset
from registry.workspace import Workspace
from tests.policies.serving import ask, while_serving
from tests.stubs.oidc_server import OidcServer, make_key
from tests.waiting import until

ISSUER = """
[[issuers]]
name = "corp"
issuer = "{url}"
audience = "hallmark"
groups_claim = "roles"
groups = {{ "ml-users" = "members" }}
"""
MAPPED = ["ml-users"]


def test_who_a_token_names_is_answered_until_an_operator_sends_them_away(
    ws: Workspace, prod: Asset, started: list[Any], server: OidcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "CALLERS_SECONDS", 0.1)
    monkeypatch.setattr(jwks, "SEEK_SECONDS", 0.0)

    def visit(url: str) -> None:
        def status(**claims: Any) -> int:
            headers = {"authorization": f"Bearer {server.issue(**{'roles': MAPPED, **claims})}"}
            body = {"model": "prod", "messages": [{"role": "user", "content": "hi"}]}
            return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code

        assert ask(url, server.issue(roles=MAPPED)) == "hello"
        assert status(aud="other") == status(key=make_key("RS256", "forger")) == 401
        assert status(roles=["members"]) == 403  # a group that settings do not map is none
        server.rotate("k2")
        assert status() == 200
        opened.record("caller.revoked", "token:corp:ada", {"reason": "left"}, actor="operator")
        until(lambda: status() == 401)
        assert status(sub="bob") == 200

    file = ws.root / "hallmark.toml"
    file.write_text(file.read_text() + ISSUER.format(url=server.url))
    opened = Workspace.open(ws.root)
    try:
        while_serving(opened, visit, plan_of(opened.settings, "prod", port=0))
        opened.store.sync()
        rows = opened.store.query("SELECT DISTINCT principal FROM gateway_decision WHERE status = 200 ORDER BY 1")
        assert [row["principal"] for row in rows] == ["token:corp:ada", "token:corp:bob"]
    finally:
        opened.close()
