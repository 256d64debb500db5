"""Python rules of a bundle, from the file to the endpoint: what the function says is what callers and engine see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import policies
from policies.bundle import Bundle, compile_bundle, load
from policies.enforcement.engine import Enforcer
from policies.guarding.guards import GuardPool, workers_of
from registry.errors import EngineFailure, SpecError
from tests.policies.asking import ASK, chat, client, post, streamed
from tests.policies.running import gateway_running
from tests.stubs.engine import Script

DEFAULT = Path(policies.__file__).parent / "bundles" / "default"
BUNDLE = """\
name: own
rules:
  - id: no-codenames
    kind: python
    side: both
    type: codename
    action: redact
    function: own/names.py:codenames
    kwargs: {names: [nightjar, plover]}
  - {id: no-homework, kind: python, side: input, function: own/names.py:homework, surfaces: [chat]}
"""
CODE = """\
import re
import time


def codenames(text, names):
    return [found.span() for name in names for found in re.finditer(name, text, re.IGNORECASE)]


def homework(text):
    if text == "wait":
        time.sleep(60)
    return "do it yourself" if "homework" in text else None
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own").mkdir()
    (folder / "own" / "names.py").write_text(CODE)
    (folder / "bundle.yaml").write_text(BUNDLE)
    for name in ("access.cedar", "access.cedarschema"):
        (folder / name).write_bytes((DEFAULT / name).read_bytes())
    return load(folder)


@pytest.fixture(scope="module")
def enforcer(bundle: Bundle) -> Enforcer:
    return Enforcer(compile_bundle(bundle))


@pytest.fixture
def pools(enforcer: Enforcer) -> Iterator[dict[str, GuardPool]]:
    running = workers_of(enforcer)
    yield running
    for pool in running.values():
        pool.close()


def test_which_rules_run_where(enforcer: Enforcer) -> None:
    assert [rule.id for rule in enforcer.guard_rules] == ["no-codenames"]
    assert [rule.id for rule in enforcer.input_guards] == ["no-codenames", "no-homework"]
    assert enforcer.holds_whole_text()
    assert not enforcer.holds_whole_text(frozenset({"no-codenames"}))


def test_answers_are_redacted_and_inputs_too(tmp_path: Path, pools: dict[str, GuardPool]) -> None:
    with gateway_running(tmp_path, guards=pools) as run:
        run.engine.script = Script(["It is Night", "jar, or", " plover."])
        assert streamed(run) == "It is [REDACTED:codename], or [REDACTED:codename]."
        answer = client(run).chat.completions.create(model="stdlib", messages=ASK)
        assert answer.choices[0].message.content == "It is [REDACTED:codename], or [REDACTED:codename]."
        run.engine.script = Script(["fine"])
        asked = [{"role": "user", "content": "what is Nightjar"}]
        assert post(run, chat(messages=asked)).status_code == 200
        assert run.engine.requests[-1]["messages"][0]["content"] == "what is [REDACTED:codename]"


def test_a_refused_input_never_reaches_the_engine(tmp_path: Path, pools: dict[str, GuardPool]) -> None:
    with gateway_running(tmp_path, guards=pools) as run:
        for text in ("my homework", "wait"):
            reply = post(run, chat(messages=[{"role": "user", "content": text}]))
            assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["no-homework"])
            assert "yourself" not in reply.text
        assert run.engine.requests == []
        assert post(run, chat(messages=[{"role": "user", "content": "and now"}])).status_code == 200


def test_the_function_must_lie_in_the_bundle_and_run(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("access.cedar", "access.cedarschema"):
        (tmp_path / name).write_bytes((DEFAULT / name).read_bytes())
    (tmp_path / "bundle.yaml").write_text(BUNDLE)
    with pytest.raises(SpecError, match=r"rule `no-codenames`: no file `own/names\.py` in the bundle"):
        load(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "names.py").write_text("def codenames(text): pass\n")
    changed = load(tmp_path)
    assert changed.digest != bundle.digest
    with pytest.raises(EngineFailure, match="AttributeError: .*homework"):
        workers_of(Enforcer(compile_bundle(changed)))
