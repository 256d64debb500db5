"""guardrails-ai both ways round: our rules in a real `Guard`, and its own validators as rules of ours."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from policies.enforcement.guard_rules import GuardRule
from policies.guarding.guards import GuardOutcome, GuardPool

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ODD = f"{ROOT}/tests/stubs/validators.py:Odd"
SHOUTING = f"{ROOT}/examples/quickstart/policy/validators.py:NoShouting"
RULES = r"""
name: small
rules:
  - {id: aws-access-key, kind: regex, side: both, type: aws_access_key, pattern: '\bAKIA[A-Z0-9]{16}\b'}
  - {id: payment-card, kind: regex, side: both, type: payment_card, pattern: '\b4(?:[ -]?[0-9]){15}\b', check: card}
  - {id: bomb-making, kind: topic, side: both, keywords: [pipe bomb, detonator], at_least: 2}
"""
LEFT = "The key is [REDACTED:aws_access_key] and the card [REDACTED:payment_card] is mine. Nothing else."


def installed(name: str) -> bool:
    try:
        return find_spec(f"guardrails_ai.{name}") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a program of its own found: guardrails is imported there, not here."""
    home = tmp_path_factory.mktemp("home")
    (home / ".guardrailsrc").write_text("enable_metrics=false\nuse_remote_inferencing=false\n")
    reading, writing = os.pipe()
    program = f"import os; os.dup2({writing}, 3); import runpy, sys; sys.argv = sys.argv[1:]; "
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    bundle = tmp_path_factory.mktemp("bundle")
    for name in ("access.cedar", "access.cedarschema"):
        (bundle / name).write_bytes((ROOT / "policies" / "bundles" / "default" / name).read_bytes())
    (bundle / "bundle.yaml").write_text(RULES)
    folders = [str(bundle), str(ROOT / "examples" / "quickstart" / "policy")]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program, str(ROOT / "tests" / "stubs" / "guarded_program.py"), *folders],
        pass_fds=(writing,),
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "OTEL_SDK_DISABLED": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    assert text, ran.stderr[-2000:]
    return dict(json.loads(text))


def test_a_guard_fixes_and_passes(found: dict[str, Any]) -> None:
    assert (found["fixed"], found["passed"]) == (LEFT, True)
    assert found["clean"] == "nothing here"


def test_error_spans_are_what_was_found(found: dict[str, Any]) -> None:
    assert found["spans"] == ["AKIA" + "IOSFODNN7EXAMPLE", "4111 1111 1111 1111"]


def test_a_block_leaves_nothing_and_an_exception_names_the_rules(found: dict[str, Any]) -> None:
    assert found["blocked"] == ["", "blocked by bomb-making"]
    assert "found by aws-access-key, payment-card" in found["raised"]
    assert "AKIA" not in found["raised"]
    assert found["not_text"] == "not a text"


def test_rules_of_code_are_refused_unless_they_are_left_out(found: dict[str, Any]) -> None:
    assert found["code"] == "rule `no-shouting` is code, which is not run here"
    assert found["skipped"] == "pass"


def test_a_streaming_guard_releases_what_the_whole_text_gives_however_it_is_cut(found: dict[str, Any]) -> None:
    assert found["streams"] == [LEFT]
    assert max(found["pieces"]) > 3
    assert found["ends_in_key"] == "it is [REDACTED:aws_access_key]"
    assert found["clean_stream"] == "Nothing to see. Move on."


def rule(name: str, validator: str, action: str = "block", **kwargs: Any) -> GuardRule:
    return GuardRule(name, "guard", action, validator, kwargs, 20.0)


@pytest.fixture(scope="module")
def pool() -> Iterator[GuardPool]:
    rules = [rule("calm", SHOUTING, "redact"), rule("odd", ODD)]
    if installed("regex_match"):
        rules.append(rule("lines", "guardrails_ai.regex_match:RegexMatch", regex=r"[^;]*", match_type="fullmatch"))
    if installed("valid_length"):
        rules.append(rule("short", "guardrails_ai.valid_length:ValidLength", min=1, max=400))
    if installed("valid_choices"):
        rules.append(rule("choice", "guardrails_ai.valid_choices:ValidChoices", choices=["yes", "no"]))
    running = GuardPool(spares=0)
    running.start(rules)
    yield running
    running.close()


OWN = frozenset({"lines", "short", "choice"})


def ask(pool: GuardPool, text: str, exempt: frozenset[str] = OWN) -> GuardOutcome:
    return asyncio.run(pool.validate(text, 60.0, exempt=exempt))


def test_a_validator_passes_blocks_and_redacts(pool: GuardPool) -> None:
    assert ask(pool, "calm \u00e9 words") == GuardOutcome(True, "", "", "calm \u00e9 words", "")
    assert ask(pool, "fail") == GuardOutcome(False, "odd", "block", "", "no", ("odd",))
    shouted = ask(pool, "THIS IS SHOUTED FROM THE FIRST LETTER TO THE LAST ONE")
    assert (shouted.rule, shouted.action, shouted.text) == ("calm", "redact", "[REDACTED:guard]")


@pytest.mark.parametrize("text", ["raise", "nothing", "network", "resolve"])
def test_a_validator_that_breaks_or_wants_the_network_blocks(pool: GuardPool, text: str) -> None:
    outcome = ask(pool, text)
    assert (outcome.ok, outcome.rule, outcome.action, outcome.text) == (False, "odd", "block", "")
    assert "secret text" not in outcome.reason


@pytest.mark.parametrize("text", ["nltk", "metrics", "print"])
def test_no_downloads_no_metrics_no_crosstalk(pool: GuardPool, text: str) -> None:
    assert ask(pool, text).ok


@pytest.mark.parametrize(
    ("package", "name", "good", "bad"),
    [
        ("regex_match", "lines", "a line", "a; b"),
        ("valid_length", "short", "a line", "x" * 401),
        ("valid_choices", "choice", "yes", "maybe"),
    ],
)
def test_validators_that_guardrails_publishes_run_as_rules(
    pool: GuardPool, package: str, name: str, good: str, bad: str
) -> None:
    if not installed(package):
        pytest.skip(f"`guardrails-ai-{package.replace('_', '-')}` is not installed")
    assert ask(pool, good, OWN - {name}).ok
    refused = ask(pool, bad, OWN - {name})
    assert (refused.ok, refused.rule, refused.action, refused.text) == (False, name, "block", "")
