"""Task YAML that ships with lm-eval runs unchanged on local data in its own format."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest

from evals.harness.child import run_child
from evals.harness.lm_eval import LmEval
from evals.harness.protocol import Task
from registry.errors import NotFound, SpecError
from tests.evals.harness.lm_eval_cases import kpi, planned, session, suite_in, weights, whole, write_rows

pytestmark = pytest.mark.slow
WORDS = ["red", "green", "blue", "seven", "house", "river", "stone", "north"]


def shipped(name, folder):
    """Copy a folder of task files as it is installed."""
    import lm_eval.tasks

    shutil.copytree(
        Path(lm_eval.tasks.__file__).parent / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
    )


def pages(count):
    return [
        {"page": f" = {WORDS[n % 8]} = \n\n The {WORDS[n % 8]} {WORDS[(n + 3) % 8]} is no. {n} , and {n + 1} ."}
        for n in range(count)
    ]


def questions(count):
    return [
        {"id": f"q{n}", "question": f"Which comes after {WORDS[n % 8]} in list {n}?", "answerKey": "ABCD"[n % 4],
         "choices": {"text": [WORDS[(n + k) % 8] for k in range(4)], "label": list("ABCD")}}
        for n in range(count)
    ]  # fmt: skip


def sums(count, start=0):
    return [
        {"question": f"What is {n} + {n + 1}?", "answer": f"{n} and {n + 1} make {2 * n + 1}.\n#### {2 * n + 1}"}
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A suite with four folders of shipped tasks and data for each."""
    suite = suite_in(tmp_path_factory.mktemp("shipped") / "suite")
    for name in ("arc", "gsm8k", "wikitext", "lambada"):
        shipped(name, suite.parent)
    data = suite.parent / "data"
    write_rows(data / "arc" / "ARC-Easy" / "test.jsonl", questions(9))
    write_rows(data / "gsm8k" / "test.jsonl", sums(6))
    write_rows(data / "gsm8k" / "train.jsonl", sums(12, start=100))
    write_rows(data / "wikitext.jsonl", pages(7))
    write_rows(data / "lambada.jsonl", [{"text": f"the {one} {two} runs to the {one}"}
                                        for one in WORDS for two in WORDS[:2]])  # fmt: skip
    return suite


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A workspace for plans."""
    from registry.workspace import Workspace

    workspace = Workspace.create(tmp_path_factory.mktemp("plans") / "ws")
    yield workspace
    workspace.close()


KPIS = {
    "arc": {"task": "arc/arc_easy.yaml", "data": "data/arc", "metric": "acc_norm", "samples": 9},
    "gsm8k": {"task": "gsm8k/gsm8k.yaml", "data": "data/gsm8k", "metric": "exact_match,flexible-extract", "samples": 6},
    "wikitext": {"task": "wikitext/wikitext.yaml", "data": "data/wikitext.jsonl", "metric": "word_perplexity",
                 "direction": "lower", "samples": 7},
    "lambada": {"task": "lambada/lambada_openai.yaml", "data": "data/lambada.jsonl", "metric": "perplexity",
                "direction": "lower", "samples": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def instruments(shared, home):
    return {name: planned(shared, kpi(id=name, **fields), home) for name, fields in KPIS.items()}


def lm_eval_says(instruments, folder, tmp_path, tiny_model):
    """What lm-eval's own `simple_evaluate` makes of the same tasks, with the same model, over all documents."""
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    from evals.cache import AnswerCache
    from evals.children.lm_eval_data import LocalData
    from evals.children.lm_eval_model import AskedModel
    from evals.children.weights.causal_lm import CausalLM

    model = AskedModel(
        CausalLM(tiny_model), AnswerCache(tmp_path / "other", {}), tick=lambda _: None, spend=lambda _: None
    )
    found, kept, here = {}, ConfigurableTask.download, Path.cwd()
    try:
        for name, each in instruments.items():
            path = folder / each.kpi.task
            LocalData(folder / each.kpi.data).take_over(ConfigurableTask)
            manager = TaskManager(include_path=str(path.parent), include_defaults=False)
            done = simple_evaluate(model, tasks=[str(path)], task_manager=manager, bootstrap_iters=0)
            (found[name],) = done["results"].values()
    finally:
        ConfigurableTask.download = kept
        os.chdir(here)
    return found


def test_shipped_tasks_give_the_numbers_of_lm_eval_itself(instruments, home, tmp_path, tiny_model):
    with session(tmp_path, weights(tiny_model), instruments.values()) as opened:
        rows = dict(opened.measure(whole(*instruments.values())))
    assert not [row.error for group in rows.values() for row in group if row.error]
    mean = {name: sum(r.value for r in group) / sum(r.weight for r in group) for name, group in rows.items()}
    said = lm_eval_says(instruments, home.parent, tmp_path, tiny_model)
    assert mean["arc"] == pytest.approx(said["arc"]["acc_norm,none"])
    assert mean["gsm8k"] == pytest.approx(said["gsm8k"]["exact_match,flexible-extract"])
    assert math.exp(mean["wikitext"]) == pytest.approx(said["wikitext"]["word_perplexity,none"])
    assert math.exp(mean["lambada"]) == pytest.approx(said["lambada"]["perplexity,none"])
    assert all(row.output for row in rows["gsm8k"] + rows["arc"])


@pytest.fixture
def lm_eval_loads():
    """Load a task file in this process as the children do, and leave lm-eval and the working folder as they were."""
    from lm_eval.api.task import ConfigurableTask

    from evals.children.lm_eval_files import load_files

    kept, here = ConfigurableTask.download, Path.cwd()
    yield lambda suite, task, data="", metric="": load_files(
        suite, {"kpi": "k", "task": task, "data": data, "metric": metric}
    )
    ConfigurableTask.download = kept
    os.chdir(here)


TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
ROWS = [{"q": f"say {n}", "a": str(n), "who": "xy"[n % 2]} for n in range(6)]


@pytest.fixture
def mine(tmp_path):
    """A suite with one task folder of its own; returns a function that writes its YAML and rows."""
    suite = suite_in(tmp_path / "suite")

    def write(text=TASK, rows=ROWS, name="task.yaml"):
        write_rows(suite.parent / "own" / "rows.jsonl", rows)
        (suite.parent / "own" / name).write_text(text, encoding="utf-8")
        return suite

    return write


def test_data_files_are_relative_to_the_yaml(mine, lm_eval_loads):
    loaded = lm_eval_loads(mine().parent, "own/task.yaml")
    assert [doc["q"] for doc in loaded.docs["mine"]] == [row["q"] for row in ROWS]
    assert (loaded.metric, loaded.filter) == ("exact_match", "none")


def test_two_equal_documents_are_named(mine, lm_eval_loads):
    with pytest.raises(SpecError, match="documents 1 and 6 of `mine` are equal"):
        lm_eval_loads(mine(rows=[*ROWS, ROWS[1]]).parent, "own/task.yaml")


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (("output_type: generate_until", "output_type: telepathy"), "cannot load", "mend the task file"),
        (("task: mine", "name: mine"), "names no task", "`task:`"),
        (('doc_to_text: "{{q}}"', "doc_to_text: !function gone.text"), "gone", "mend the task file"),
        (("dataset_path: json", "dataset_path: some/where"), "`some/where` of a hub", "`data:`"),
        (("rows.jsonl}}", '"https://x/rows.jsonl"}}'), "from the network", "beside"),
        (("exact_match, aggregation: mean", "bleu, aggregation: bleu"), "over all samples at once", "mean"),
        (("output_type", "unsafe_code: true\noutput_type"), "code that the model writes", "sandbox"),
        (("output_type", "doc_to_image: q\noutput_type"), "images", "text"),
        (("test_split: test", "test_split: exam"), "exam", ""),
        (("task: mine", "task: [mine"), "cannot load", "mend"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_run_says_why_and_what_to_do(mine, lm_eval_loads, change, message, hint):
    with pytest.raises(SpecError, match=message) as caught:
        lm_eval_loads(mine(TASK.replace(*change)).parent, "own/task.yaml")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("metric", "message", "hint"),
    [
        ("f1", "`f1` is no metric", "`exact_match`"),
        ("", "more than one metric", "`acc`"),
        ("exact_match", "more than one filter", "`exact_match,first`"),
        ("exact_match,third", "`third` is no filter", "`exact_match,second`"),
    ],
)
def test_the_metric_must_be_one_of_the_task(mine, lm_eval_loads, metric, message, hint):
    text = TASK
    if not metric:
        text = TASK + "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    elif metric.startswith("exact_match"):
        text = TASK + "".join(
            f"{'filter_list:' if name == 'first' else ''}\n  - {{name: {name}, filter: [{{function: take_first}}]}}"
            for name in ("first", "second")
        )
    with pytest.raises(SpecError, match=message) as caught:
        lm_eval_loads(mine(text).parent, "own/task.yaml", metric=metric)
    assert hint in caught.value.hint


def test_local_data_stands_for_a_dataset_of_a_hub(mine, lm_eval_loads):
    suite = mine(TASK.replace("dataset_path: json", "dataset_path: some/where").replace("dataset_kwargs", "metadata"))
    with pytest.raises(SpecError, match="of a hub"):
        lm_eval_loads(suite.parent, "own/task.yaml")
    assert len(lm_eval_loads(suite.parent, "own/task.yaml", "own/rows.jsonl").places) == 6
    write_rows(suite.parent / "data" / "where" / "test-00000-of-00002.jsonl", ROWS[:2])
    write_rows(suite.parent / "data" / "where" / "test-00001-of-00002.jsonl", ROWS[2:])
    assert len(lm_eval_loads(suite.parent, "own/task.yaml", "data").places) == 6
    (suite.parent / "empty").mkdir()
    with pytest.raises(SpecError, match="holds no data"):
        lm_eval_loads(suite.parent, "own/task.yaml", "empty")
    write_rows(suite.parent / "wrong" / "train.jsonl", ROWS)
    with pytest.raises(SpecError, match="no split `test`") as caught:
        lm_eval_loads(suite.parent, "own/task.yaml", "wrong")
    assert "`train`" in caught.value.hint


GROUP = """
group: both
task: [mine, yours]
aggregate_metric_list:
  - {metric: exact_match, aggregation: mean, weight_by_size: true}
"""


def test_groups_includes_clusters_and_slices_are_planned_from_the_files_they_need(mine, shared):
    suite = mine()
    own = suite.parent / "own"
    (own / "template").write_text(TASK, encoding="utf-8")
    (own / "yours.yaml").write_text(
        "include: template\ntask: yours\ndoc_to_text: !function code.ask\n", encoding="utf-8"
    )
    (own / "code.py").write_text("def ask(doc):\n    return 'please ' + doc['q']\n", encoding="utf-8")
    (own / "both.yaml").write_text(GROUP, encoding="utf-8")
    choice = TASK.replace("generate_until", "multiple_choice").replace("exact_match", "acc").replace("mine", "choice")
    (own / "choice.yaml").write_text(choice + "doc_to_choice: ['a', 'b']\n", encoding="utf-8")
    one = kpi("own/both.yaml", samples=10, cluster="who", slices=["task", "who"])
    plan = LmEval().plan(shared, one, suite)
    needed = ("both.yaml", "choice.yaml", "code.py", "rows.jsonl", "task.yaml", "template", "yours.yaml")
    assert set(plan.files) == {f"own/{name}" for name in needed}
    assert len(plan.samples) == len({sample.id for sample in plan.samples}) == 10
    assert {sample.cluster for sample in plan.samples} == {"x", "y"}
    assert {dict(sample.slices)["task"] for sample in plan.samples} == {"mine", "yours"}
    assert any(sample.input.startswith("please say") for sample in plan.samples)
    assert LmEval().plan(shared, kpi("own/both.yaml@yours", samples=6), suite).samples
    for change, message in (({"endpoint": "guarded", "task": "own/choice.yaml"}, "needs log-likelihoods"),
                            ({"cluster": "whom"}, "no field `whom`"), ({"samples": 13}, "plans 13 samples"),
                            ({"direction": "lower"}, "backwards"), ({"task": "own/gone.yaml"}, "no task file"),
                            ({"task": "own/task.yaml@theirs"}, "no task `theirs`"),
                            ({"data": "x.sealed"}, "reads its data itself")):  # fmt: skip
        with pytest.raises((SpecError, NotFound), match=message):
            LmEval().plan(shared, one.model_copy(update=change), suite)


def test_a_plan_is_made_once_and_again_when_a_file_changes(mine, shared, monkeypatch):
    started = []

    def counted(module, *rest, **fields):
        started.append(module)
        return run_child(module, *rest, **fields)

    monkeypatch.setattr("evals.harness.lm_eval_plan.run_child", counted)
    suite, one = mine(), kpi("own/task.yaml", samples=6)
    first = LmEval().plan(shared, one, suite)
    assert LmEval().plan(shared, one, suite) == first
    assert len(started) == 1
    again = LmEval().plan(shared, one, mine(rows=[*ROWS[:-1], {"q": "other", "a": "o", "who": "x"}]))
    assert len(started) == 2
    assert {sample.id for sample in again.samples} != {sample.id for sample in first.samples}


def test_looks_see_the_few_shot_examples_of_a_whole_run(instruments, tmp_path, tiny_model):
    each = instruments["gsm8k"]
    with session(tmp_path, weights(tiny_model), [each]) as opened:
        late = dict(opened.measure([Task(each, (each.samples[-1].id,))]))["gsm8k"]
        rows = dict(opened.measure(whole(each)))["gsm8k"]
    lines = (tmp_path / "answers" / "lm-eval.jsonl").read_text().split('"key"')
    assert len(lines) - 1 == len(rows)  # the request of the first look was the whole run's
    assert late[0].output == next(row.output for row in rows if row.sample_id == late[0].sample_id)


SUITE = """
suite: shipped
version: 1
canary: 0123456789abcdef-shipped
gate: {mode: fixed}
kpis:
  - {id: arc, harness: lm-eval, task: arc/arc_easy.yaml, data: data/arc, metric: acc_norm, samples: 9,
     direction: higher, slices: [task], control: null_model, rule: {type: floor, value: 0.01}, range: [0, 1]}
"""


def test_a_suite_with_a_shipped_task_is_registered_and_evaluated(home, ws, candidate):
    from evals.evaluate import evaluate
    from evals.samples import decode
    from registry.records import EvalRun

    path = home.parent / "shipped.yaml"
    path.write_text(SUITE, encoding="utf-8")
    (run, *_) = evaluate(ws, candidate.id, path, actor="operator")
    record = ws.get(run.id, EvalRun)
    rows = decode(ws.artifacts.read_bytes(record.results))
    assert len(rows) == 9
    assert {json.loads(row.slices)["task"] for row in rows} == {"arc_easy"}
    assert not [row.error for row in rows if row.error]
    assert record.errors == {"arc": 0}
