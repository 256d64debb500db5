"""What the lm-eval tests share: KPIs, a bench around the tiny model, and one measurement."""

import json
import shutil
from contextlib import contextmanager

from evals.harness.lm_eval import LmEval
from evals.harness.protocol import Bench, Task
from evals.instrument import Instrument
from evals.kpi import Kpi
from evals.targets import EndpointTarget, WeightsTarget
from registry.protocols import silent
from tests.evals.conftest import code


def kpi(task, **fields):
    """A KPI of lm-eval that only reports."""
    given = {"id": "k", "harness": "lm-eval", "task": task, "samples": 4, "direction": "higher",
             "rule": {"type": "advisory"}}  # fmt: skip
    return Kpi.model_validate({**given, **fields})


def write_rows(path, rows):
    """Write JSON lines and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def suite_in(folder):
    """A suite file in a folder: only its place matters to a harness."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "suite.yaml"
    path.write_text("suite: s\n", encoding="utf-8")
    return path


def texts(count):
    """Rows of documents that look like code."""
    return [{"text": code(number), "path": f"file{number % 5}.py"} for number in range(count)]


def planned(ws, one, suite):
    """The instrument of one KPI, in the plan's own order."""
    plan = LmEval().plan(ws, one, suite)
    return Instrument(kpi=one, samples=plan.samples, files=plan.files, dataset=plan.dataset, digest="sha256:0")


def unpack(instruments, folder):
    """Lay out the files that a manifest would keep, and return the folder."""
    for instrument in instruments:
        for path, data in instrument.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return folder


def weights(folder, seed=None, name="w"):
    """The target of a model folder."""
    return WeightsTarget(folder, {"weights": name, "random_seed": seed}, seed)


def served(endpoint, tokenizer=None):
    """The target of a stand-in endpoint."""
    return EndpointTarget(
        endpoint.base_url, endpoint.api_key, endpoint.headers, {"candidate": "c"}, tokenizer=tokenizer
    )


@contextmanager
def session(tmp_path, target, instruments=(), **fields):
    """A session on a target; the instruments' files lie in its suite folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    suite = tmp_path / "copy"
    suite.mkdir(exist_ok=True)
    bench = Bench(
        target=target, suite=unpack(instruments, suite), answers=fields.pop("answers", tmp_path / "answers"),
        scratch=scratch, progress=fields.pop("progress", silent), **fields,
    )  # fmt: skip
    opened = LmEval().open(bench)
    try:
        yield opened
    finally:
        opened.close()


def whole(*instruments, first=None):
    """All samples (or the first so many) of each instrument, as tasks."""
    return [Task(each, tuple(sample.id for sample in each.samples)[:first]) for each in instruments]


def without_letter(model, folder, letter):
    """A copy of a model whose tokenizer has an unknown token in the place of a letter."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    merges = [pair for pair in data["model"]["merges"] if letter not in "".join(pair)]
    data["model"]["merges"] = merges
    data["model"]["vocab"] = {"<unk>" if token == letter else token: number for token, number in vocabulary.items()
                              if token == letter or letter not in token}  # fmt: skip
    data["model"]["unk_token"] = "<unk>"
    path.write_text(json.dumps(data))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "unk_token": "<unk>"}))
    return folder
