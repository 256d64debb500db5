"""Planning an inspect-ai task: what it would ask, found without asking; what cannot be run is refused before."""

import shutil

import pytest

from evals.harness.inspect import Inspect, task_files
from evals.samples import make_sample
from registry.errors import NotFound, SpecError
from tests.evals.harness.inspect_cases import TASKS, kpi, questions

MORE = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
from inspect_ai.scorer import match
from pathlib import Path
import beside


@task
def local():
    return Task(dataset=beside.samples(Path("data.txt").read_text()), scorer=match())


@task
def picture():
    shown = ChatMessageUser(content=[ContentText(text="what?"), ContentImage(image="a.png")])
    return Task(dataset=[Sample([shown], target="x")], scorer=match())


@task
def talk():
    return Task(dataset=[Sample([ChatMessageUser(content="hello"), ChatMessageUser(content="well?")])], scorer=match())
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite's folder with task files, a module beside them and data."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "tasks" / "__pycache__").mkdir(parents=True)
    (folder / "tasks" / "cases.py").write_text(TASKS)
    (folder / "more").mkdir()
    (folder / "more" / "more.py").write_text(MORE)
    (folder / "more" / "beside.py").write_text(
        "from inspect_ai.dataset import Sample\ndef samples(text):\n    return [Sample(one) for one in text.split()]"
    )
    (folder / "more" / "data.txt").write_text("one two three")
    (folder / "alone.py").write_text(TASKS)
    (folder / "suite.yaml").write_text("suite: s\n")
    return folder / "suite.yaml"


@pytest.fixture
def plan(suite, monkeypatch):
    """A function that plans in this process; the folder that the task went to is left again."""
    pytest.importorskip("inspect_ai")
    from evals.children.plan_inspect import plan

    monkeypatch.chdir(suite.parent)
    return lambda one: plan(suite.parent, one.model_dump(mode="json"))


@pytest.mark.slow
def test_a_plan_is_made_once_for_the_same_files(ws, suite, tmp_path, monkeypatch):
    one = kpi(cluster="ticket", slices=["lang"])
    found = Inspect().plan(ws, one, suite)
    assert {sample.id for sample in found.samples} == {sample.id for sample in questions()}
    assert {sample.cluster for sample in found.samples} == {"t0", "t1"}
    assert {sample.slices for sample in found.samples} == {(("lang", "de"),), (("lang", "en"),)}
    assert {(sample.input, sample.target) for sample in found.samples} >= {("question 0", "right 0")}
    assert list(found.files) == ["tasks/cases.py"]
    monkeypatch.setattr("evals.harness.inspect.run_child", lambda *_, **__: pytest.fail("planned again"))
    assert Inspect().plan(ws, one.model_copy(update={"id": "other"}), suite) == found


@pytest.mark.slow
def test_a_task_that_changes_is_planned_anew_and_its_error_keeps_its_words(ws, suite, tmp_path):
    copy = shutil.copytree(suite.parent, tmp_path / "copy") / "suite.yaml"
    (copy.parent / "tasks" / "cases.py").write_text("import no_such_module\n" + TASKS)
    with pytest.raises(SpecError, match="no_such_module") as caught:
        Inspect().plan(ws, kpi(), copy)
    assert "its own folder" in caught.value.hint


def test_a_task_may_read_and_import_what_lies_beside_it(plan):
    found = plan(kpi("more/more.py@local", samples=3))
    assert {sample.input for sample in found} == {"one", "two", "three"}


def test_a_conversation_is_a_question_too(plan):
    assert [sample.input for sample in plan(kpi("more/more.py@talk", samples=1))] == ["hello\nwell?"]


def test_the_same_question_is_asked_once_and_counts_once(plan):
    assert {sample.id for sample in plan(kpi("tasks/cases.py@doubled"))} == {sample.id for sample in questions()}
    with pytest.raises(SpecError, match="has 6 and asks 2 of them twice"):
        plan(kpi("tasks/cases.py@doubled", samples=6))


def test_fewer_samples_are_chosen_over_clusters_by_content(plan):
    found = plan(kpi(samples=2, cluster="ticket"))
    assert {sample.cluster for sample in found} == {"t0", "t1"}
    assert make_sample("question 0", target="right 0").id in {sample.id for sample in plan(kpi())}


@pytest.mark.parametrize(
    ("task", "fields", "says"),
    [
        ("tasks/cases.py@boxed", {}, "wants the sandbox `docker`, the KPI allows `none`"),
        ("tasks/cases.py@sample_boxed", {"sandbox": "docker"}, "wants the sandbox `local`"),
        ("tasks/cases.py@plain", {"samples": 500}, "plans 500 samples, its task has 4"),
        ("tasks/cases.py@other", {}, "no task `other`"),
        ("tasks/cases.py@fails", {}, "ValueError: no such table"),
        ("tasks/cases.py@unscored", {}, "no scorer"),
        ("tasks/cases.py@several", {}, "3 scores"),
        ("tasks/cases.py@several", {"metric": "f1"}, "no scorer `f1`"),
        ("tasks/cases.py@plain", {"cluster": "customer"}, "no `customer`"),
        ("tasks/cases.py@plain", {"slices": ["country"]}, "no `country`"),
        ("more/more.py@picture", {"samples": 1}, "content of type `image`"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_cure(plan, task, fields, says):
    with pytest.raises(SpecError, match=says) as caught:
        plan(kpi(task, **fields))
    assert caught.value.hint


@pytest.mark.parametrize("allowed", ["docker", "local"])
def test_a_sandbox_that_the_kpi_allows_is_no_obstacle(plan, allowed):
    task = {"docker": "boxed", "local": "sample_boxed"}[allowed]
    assert len(plan(kpi(f"tasks/cases.py@{task}", sandbox=allowed))) == 4


def test_files_are_those_a_run_may_read(suite):
    assert set(task_files(kpi("more/more.py@local"), suite)) == {"more/more.py", "more/beside.py", "more/data.txt"}
    assert set(task_files(kpi("alone.py@plain"), suite)) == {"alone.py"}
    with pytest.raises(NotFound, match="no task file"):
        task_files(kpi("tasks/gone.py@plain"), suite)
    with pytest.raises(NotFound, match="no data file"):
        task_files(kpi(data="gone.jsonl"), suite)


def test_a_task_outside_of_the_suite_is_refused(suite, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "outside.py").write_text(TASKS)
    with pytest.raises(SpecError, match="outside"):
        task_files(kpi("../outside.py@plain"), inner / "suite.yaml")
