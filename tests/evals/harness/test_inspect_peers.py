"""inspect-ai's own examples, from its source distribution, run as they are: on an endpoint and on weights."""

import json
import math
import os
from pathlib import Path

import pytest

from evals.harness.inspect import Inspect
from evals.targets import WeightsTarget
from registry.protocols import silent
from tests.evals.harness.inspect_cases import Stage, asked_of, due, instrument, kpi
from tests.stubs.openai_server import called, said

EXAMPLES = Path(__file__).parents[3] / ".venv" / "peers" / "inspect_ai-0.3.285" / "examples"
NAMES = ("theory_of_mind", "security_guide", "popularity", "tool_use", "hello_world")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not EXAMPLES.is_dir() and not os.environ.get("CI"), reason="inspect-ai's examples are not fetched: `make setup`"
    ),
]


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """The examples in a suite's folder, byte for byte, and a stage on which they run."""
    folder = tmp_path_factory.mktemp("peers")
    suite = folder / "suite"
    (suite / "tasks").mkdir(parents=True)
    for name in NAMES:
        (suite / "tasks" / f"{name}.py").write_bytes((EXAMPLES / f"{name}.py").read_bytes())
    for name, held in {
        "judges/j.json": {"identity": {"url": "http://judge/v1", "model": ""}, "template": ""},
        "calibration/j.json": {"min_kappa": 0.4, "timeout_s": 10.0, "cases": []},
    }.items():
        (suite / name).parent.mkdir()
        (suite / name).write_text(json.dumps(held))
    (suite / "suite.yaml").write_text("suite: s\n")
    stage = Stage(Inspect(), folder, suite)
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def plan(peers, tmp_path_factory):
    """A function that plans a KPI without its judge, as the engine plans it."""
    from evals.children.plan_inspect import plan

    before = Path.cwd()

    def planned(one):
        found = plan(peers.suite, one.model_dump(mode="json"))
        os.chdir(before)
        return instrument(one, tuple(found))

    return planned


@pytest.mark.parametrize(("task", "samples"), [("theory_of_mind", 20), ("security_guide", 12)])
def test_tasks_that_a_model_grades(peers, plan, task, samples):
    peers.says = lambda body, count: said("my answer")
    peers.judges = lambda body, count: said("Because.\n\nGRADE: " + "CI"[count % 2])
    rows = peers.rows(plan(kpi(f"tasks/{task}.py@{task}", samples=samples, judge="j")))
    assert len(rows) == samples
    assert {row.error for row in rows} == {""}
    assert sum(row.value for row in rows) == samples / 2
    assert len(peers.judge.asked) == samples
    assert all("my answer" in asked_of(body) for body in peers.judge.asked)
    roles = [message["role"] for message in peers.endpoint.asked[0]["messages"]]
    assert roles == (["system", "user"] if task == "security_guide" else ["user"])


def test_a_task_with_a_system_message_and_a_match(peers, plan):
    peers.says = lambda body, count: said("Yes")
    rows = peers.rows(plan(kpi("tasks/popularity.py@popularity", samples=40)))
    assert len(rows) == 40
    assert {row.value for row in rows} == {0.0, 1.0}


@pytest.mark.parametrize(("task", "answer"), [("addition_problem", "The sum is 2"), ("parallel_add", "2 4")])
def test_tasks_whose_tool_is_called_alone_or_twice_at_once(peers, plan, task, answer):
    def adds(body, count):
        results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        if results:
            return said(answer if results == ["2", "4"][: len(results)] else "no idea")
        wanted = [("add", '{"x": 1, "y": 1}'), ("add", '{"x": 2, "y": 2}')]
        return called(*(wanted if "2+2" in asked_of(body) else wanted[:1]))

    peers.says = adds
    rows = peers.rows(plan(kpi(f"tasks/tool_use.py@{task}", samples=1)))
    assert [(row.value, row.error) for row in rows] == [(1.0, "")]
    assert len(peers.endpoint.asked) == 2


def test_weights_in_process_answer_them_too(peers, plan, tiny_model, tmp_path):
    identity = {"weights": "tiny"}
    session = Inspect().open(peers.bench(target=WeightsTarget(tiny_model, identity), progress=silent))
    of = plan(kpi("tasks/hello_world.py@hello_world", samples=1, endpoint="weights"))
    try:
        (_, rows), *_ = session.measure([due(of)])
    finally:
        session.close()
    assert [(row.value, row.error) for row in rows] == [(0.0, "")]
    assert rows[0].completion_tokens > 0
    assert not math.isnan(rows[0].latency_ms)
