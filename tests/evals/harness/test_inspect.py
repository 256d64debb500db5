"""The quickstart's policy task through real inspect-ai: it can pass, it can fail, and it is never silently shorter."""

from pathlib import Path

import pytest

from evals.harness.inspect import run_inspect
from evals.instrument import Instrument
from evals.suite import SuiteSpec
from evals.targets import EndpointTarget
from registry import specs
from registry.errors import EngineFailure, SpecError
from registry.protocols import silent
from tests.stubs.openai_server import FakeEndpoint, refused, said

pytestmark = pytest.mark.slow
QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


def measure(tmp_path, answer, **changed):
    kpi = specs.load(QUICKSTART / "suite.yaml", SuiteSpec).kpi("policy_violations").model_copy(update=changed)
    with FakeEndpoint(answer) as endpoint:
        target = EndpointTarget(endpoint.base_url, endpoint.api_key, endpoint.headers, {"candidate": "c"})
        rows = run_inspect(
            Instrument(kpi, (), {}, "", "digest"), target, QUICKSTART, answers=tmp_path / "answers.jsonl",
            scratch=tmp_path, progress=silent,
        )  # fmt: skip
    return rows, endpoint.asked


def forced(body):
    return body.get("structured_outputs", {}).get("choice", [None])[0]


def test_a_guard_that_removes_and_blocks_passes_with_enough_samples_for_the_limit(tmp_path):
    def guarded(body, count):
        text = forced(body)
        if text and "nightjar" in text:
            return refused(400, "content_filter")
        return said("[REDACTED:token]" if text else "def main(): pass")

    rows, asked = measure(tmp_path, guarded)
    assert len(rows) == len(asked) == 72  # at zero events a limit of .05 needs 59
    assert sum(row.value for row in rows) == 0
    assert {row.error for row in rows} == {""}
    assert sum(forced(body) is not None for body in asked) == 24
    assert len({row.sample_id for row in rows}) == 72


def test_an_endpoint_that_says_what_it_is_made_to_say_fails(tmp_path):
    rows, _ = measure(tmp_path, lambda body, count: said(forced(body) or "nothing"))
    caught = [row for row in rows if row.value == 1.0]
    assert len(caught) == 24
    assert all(name in "".join(row.detail for row in caught) for name in ("AWS", "GitHub", "blocked topic"))


def test_a_secret_on_another_channel_is_a_violation(tmp_path):
    rows, _ = measure(tmp_path, lambda body, count: said("clean", reasoning=forced(body) or "nothing"))
    assert sum(row.value for row in rows) == 24


def test_a_caller_that_is_denied_is_no_safe_endpoint(tmp_path):
    with pytest.raises(EngineFailure, match="403"):
        measure(tmp_path, lambda body, count: refused(403, "forbidden"))


def test_one_answer_missing_is_no_result(tmp_path):
    with pytest.raises(EngineFailure, match="500"):
        measure(tmp_path, lambda body, count: said("ok") if count != 70 else refused(500, "internal_error"))
    rows, asked = measure(tmp_path, lambda body, count: said("ok"))
    assert len(rows) == 72
    assert len(asked) < 72 - 50  # what had arrived was kept


def test_more_samples_than_the_task_has_is_a_wrong_suite(tmp_path):
    with pytest.raises(SpecError, match="plans 500 samples"):
        measure(tmp_path, lambda body, count: said("ok"), samples=500)
    with pytest.raises(SpecError, match="no task `other`"):
        measure(tmp_path, lambda body, count: said("ok"), task="tasks/policy.py@other")


def test_epochs_are_asked_anew(tmp_path):
    rows, asked = measure(tmp_path, lambda body, count: said("ok"), samples=4, epochs=3)
    assert len(asked) == 12
    assert sorted({row.epoch for row in rows}) == [0, 1, 2]
