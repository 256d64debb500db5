"""The gate on real models in small: equal models are not blocked, worse ones not promoted, planted regressions caught.

`benchmarks/gate_real.py` does the same with larger models, more splits and a broken chat template.
"""

import io
import random
import sysconfig
from pathlib import Path

import pytest

from benchmarks import gate_real
from evals.suite import SuiteSpec
from registry import specs
from registry.records import Candidate, Dataset

pytestmark = pytest.mark.slow
SAMPLES, SPLITS = 160, 20
SUITE = f"""\
suite: small
version: 1
canary: small-canary-0123456789
gate: {{alpha: 0.05, mode: group_sequential, looks: 8, order_seed: 1}}
kpis:
  - {{id: bits, harness: lm-eval, task: bits_per_byte, data: "dataset:code#code_holdout", samples: {SAMPLES},
     direction: lower, cluster: id, control: null_model, rule: {{type: noninferior, margin: 0.03, scale: ratio}}}}
"""


def texts():
    """Pieces of this interpreter's own library, in a fixed order."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    whole = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    pieces = [text[at : at + 600] for text in whole for at in range(0, len(text), 600)]
    random.Random(1).shuffle(pieces)
    return [piece for piece in pieces if len(piece.strip()) > 400]


class Trainer:
    """A small loop over one model: what a recipe does, without its record."""

    def __init__(self, folder, corpus):
        import torch

        from training.export import random_model
        from training.recipe import Shape
        from training.tokenizer import save_tokenizer, train_tokenizer

        torch.set_num_threads(1)
        torch.manual_seed(1)
        self.torch, self.folder = torch, folder
        self.tokenizer = train_tokenizer(corpus[:200], 512)
        save_tokenizer(self.tokenizer, folder / "tokenizer", longest=256)
        shape = Shape(vocab=512, hidden=64, layers=2, heads=2, kv_heads=1, head=32, intermediate=128)
        self.model = random_model(shape, self.tokenizer, longest=256)

    def steps(self, corpus, count, seed):
        torch, draws = self.torch, random.Random(seed)
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        ids = [self.tokenizer.encode(text).ids[:96] for text in corpus[:800]]
        for _ in range(count):
            batch = torch.tensor(draws.sample([each for each in ids if len(each) == 96], 8))
            self.model(input_ids=batch, labels=batch).loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def save(self, name):
        import shutil

        target = self.folder / name
        self.model.save_pretrained(target)
        for file in (self.folder / "tokenizer").iterdir():
            shutil.copy(file, target)
        return target


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A workspace with the suite and candidates: a model, its twin, and two that were spoiled on purpose."""
    import torch

    from registry.workspace import Workspace

    root = tmp_path_factory.mktemp("real")
    ws = Workspace.create(root / "ws")
    pieces = texts()
    _add_dataset(ws, pieces[:SAMPLES])
    trainer = Trainer(root, pieces[SAMPLES:])
    trainer.steps(pieces[SAMPLES:], 60, seed=1)
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    folders = {}
    for name, corpus, steps in (
        ("good", pieces[SAMPLES:], 12), ("twin", pieces[SAMPLES:], 12), ("bad_data", [t[::-1] for t in pieces], 70),
    ):  # fmt: skip
        trainer.model.load_state_dict(state)
        trainer.steps(corpus, steps, seed=len(name))
        folders[name] = trainer.save(name)
    trainer.model.load_state_dict(state)
    weight = trainer.model.get_parameter("model.embed_tokens.weight")
    with torch.no_grad():
        weight += weight.std() * torch.randn_like(weight)
    folders["perturbed"] = trainer.save("perturbed")
    suite = root / "suite.yaml"
    suite.write_text(SUITE)
    yield ws, suite, {name: _candidate(ws, folder, name).id for name, folder in folders.items()}
    ws.close()


def _add_dataset(ws, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"id": str(n), "text": text} for n, text in enumerate(rows)]), sink)
    folder = ws.work("test", "code")
    (folder / "code_holdout.parquet").write_bytes(sink.getvalue())
    manifest = ws.artifacts.add_tree(folder)
    record = Dataset("code", "", "sha256:r", manifest.id, {"code_holdout": len(rows)}, [], {}, [])
    ws.register(record, actor="operator", name="code")


def _candidate(ws, folder, name):
    record = Candidate(f"sha256:{name}", ws.artifacts.add_tree(folder).id, "t", "", "", {}, "transformers", "5", "none",
                       "b")  # fmt: skip
    return ws.register(record, actor="operator", name=name)


@pytest.mark.parametrize("planted", ["bad_data", "perturbed"])
def test_a_planted_regression_is_caught(real, planted):
    ws, suite, candidates = real
    found = gate_real.judge(ws, suite, candidates[planted], candidates["good"])
    assert found.decision.verdict == "FAIL"
    assert found.failed_at["bits"] <= 8
    assert found.decision.kpis[0].estimate < -0.03


def test_splits_of_equal_models_do_not_fail_and_worse_ones_do_not_pass(real):
    ws, suite, candidates = real
    first, controls = gate_real.full(ws, suite, candidates["good"])
    second, _ = gate_real.full(ws, suite, candidates["twin"])
    spec = specs.load(suite, SuiteSpec)
    found = gate_real.splits_of(gate_real.Splits(spec, "bits", first, second, controls), SPLITS)
    assert found["documents"] == SAMPLES
    assert found["equal"]["FAIL"] <= 2
    assert found["worse_by_margin"]["PASS"] <= 4  # expected at most 1 of 20; five would have chance .003
    assert found["equal"]["PASS"] >= found["worse_by_margin"]["PASS"]
