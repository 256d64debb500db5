"""The endpoint's limits as settings: each sets its own bound, a wrong one is named, a small one sheds load."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import httpx
import pytest

from governance.cli.serve import plan_of
from policies.endpoint.desk import Bounds
from policies.endpoint.edge import EdgeLimits
from policies.serving.bounds import RANGES, bounds_of
from registry.errors import SpecError
from registry.records import Asset
from registry.settings import DEFAULTS, read
from registry.workspace import Workspace
from tests.policies.serving import ASK, add_caller, while_serving
from tests.stubs.engine import Script


def test_limits_are_settings_and_their_defaults_are_the_endpoints(ws: Workspace) -> None:
    assert bounds_of(read(ws.root)) == Bounds() == plan_of(read(ws.root), "prod").bounds
    kinds = RANGES.values()
    assert {kind.field for kind in kinds if not kind.edge} == {each.name for each in fields(Bounds)} - {"edge"}
    assert {kind.field for kind in kinds if kind.edge} == {each.name for each in fields(EdgeLimits)}


def test_each_limit_sets_its_own_bound(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bounds_of(read(ws.root))
    for name, kind in RANGES.items():
        with monkeypatch.context() as patch:
            value = int(DEFAULTS[name]) + 1
            patch.setenv(f"HALLMARK_{name.upper()}", str(value))
            edge = replace(before.edge, **{kind.field: value}) if kind.edge else before.edge
            changed = {} if kind.edge else {kind.field: value}
            assert bounds_of(read(ws.root)) == replace(before, edge=edge, **changed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("MAX_RUNNING", "0", "from 1 to 65536"), ("MAX_RUNNING", "1.5", "whole number"),
     ("MAX_RUNNING", "nan", "whole number"), ("MAX_WAITING", "-1", "from 0"), ("MAX_WAIT_S", "inf", "from 0 to 600"),
     ("MAX_BODY_BYTES", "many", "expected a number"), ("MAX_BODY_BYTES", "9000000", "at least `max_body_bytes`"),
     ("MAX_BODIES_BYTES", "2000", "at least `max_body_bytes`"), ("MAX_HEAD_S", "0", "from 0.1"),
     ("MAX_CONNECTIONS", "1e12", "from 1 to")],
)  # fmt: skip
def test_a_limit_out_of_range_is_refused_with_its_source(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"HALLMARK_{name}", value)
    with pytest.raises(SpecError, match=message) as caught:
        plan_of(read(ws.root), "prod")
    assert caught.value.hint


def test_a_limit_that_is_not_there_is_refused_with_the_nearest(ws: Workspace) -> None:
    file = ws.root / "hallmark.toml"
    file.write_text(f"max_runing = 4\n{file.read_text()}")
    with pytest.raises(SpecError, match="unknown setting `max_runing`") as caught:
        read(ws.root)
    assert "max_running" in (caught.value.hint or "")


def test_a_small_limit_sheds_load_and_says_when_to_come_back(ws: Workspace, prod: Asset, started: list[Any]) -> None:
    """As `hallmark serve` starts it: one request at work, none waiting, small bodies."""
    file = ws.root / "hallmark.toml"
    limits = "max_running = 1\nmax_waiting = 0\nmax_body_bytes = 2048\n"
    file.write_text(limits + file.read_text())
    opened = Workspace.open(ws.root)
    headers = {"authorization": f"Bearer {add_caller(ws)}"}
    body: dict[str, Any] = {"model": "prod", "messages": ASK, "stream": True}

    def visit(url: str) -> None:
        engine = started[0].handle.engine
        engine.script = Script(["word "] * 20, delay=0.05)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as slow:
            assert slow.status_code == 200
            shed = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            assert slow.read().count(b"word ") == 20
        assert (shed.status_code, shed.json()["error"]["code"]) == (503, "overloaded")
        assert int(shed.headers["retry-after"]) >= 1
        large = httpx.post(f"{url}/v1/chat/completions", json={**body, "user": "a" * 3000}, headers=headers)
        assert (large.status_code, large.json()["error"]["message"]) == (413, "the body is larger than 2048 bytes")
        engine.script = Script(["fine"])
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code == 200

    try:
        while_serving(opened, visit, plan_of(opened.settings, "prod", port=0))
    finally:
        opened.close()
