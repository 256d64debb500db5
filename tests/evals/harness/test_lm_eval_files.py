"""Task YAML that ships with lm-eval runs unchanged on local data in its own format."""

import math
import shutil
from pathlib import Path

import pytest

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
    import os

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
