"""Fixtures of the evaluation tests: a tiny random Mistral folder, and a workspace with a dataset and a candidate."""

import io
import json
import os
import shutil

import pytest

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", DO_NOT_TRACK="1")

WORDS = [
    "value", "index", "path", "name", "count", "line", "file", "error", "result", "token", "state", "order", "first",
    "other",
]  # fmt: skip


def code(number: int) -> str:
    """Return a document that looks like code; different for every number."""
    lines = [f"def {WORDS[number % 14]}_{number}(argument):"]
    for line in range(24):
        word, other = WORDS[(number * 7 + line) % 14], WORDS[(number + line * 3) % 14]
        lines.append(f"    {word}_{line} = compute_{other}(argument, {number * line % 17})")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A random Mistral of a few thousand parameters with a byte-level BPE; its context is 128 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([code(number) for number in range(20)], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.set_num_threads(1)  # threads inside one tiny operation only wait for each other
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=None, bos_token_id=0,
        eos_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """One new workspace with its store, copied for each test."""
    from registry.workspace import Workspace

    root = tmp_path_factory.mktemp("fresh") / "ws"
    workspace = Workspace.create(root)
    workspace.store.sync()
    workspace.close()
    return root


@pytest.fixture
def ws(fresh, tmp_path):
    """A new workspace."""
    from registry.workspace import Workspace

    shutil.copytree(fresh, tmp_path / "ws")
    workspace = Workspace.open(tmp_path / "ws")
    yield workspace
    workspace.close()


@pytest.fixture
def add_dataset(ws):
    """A function that registers a dataset of given splits: split name to rows (text, path)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from registry.records import Dataset, sha256

    def add(name, splits):
        folder = ws.work("test", name)
        for split, rows in splits.items():
            table = [
                {"id": f"{split}{i}", "text": text, "source": "t", "path": path, "kind": "domain"}
                for i, (text, path) in enumerate(rows)
            ]
            names = ("id", "text", "source", "path", "kind")
            schema = pa.schema([(column, pa.string()) for column in names])
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(table, schema=schema), sink)
            (folder / f"{split}.parquet").write_bytes(sink.getvalue())
        manifest = ws.artifacts.add_tree(folder)
        counts = {split: len(rows) for split, rows in splits.items()}
        record = Dataset(name, "", sha256(repr(splits).encode()), manifest.id, counts, [], {}, [])
        return ws.register(record, actor="operator", name=name)

    return add


@pytest.fixture
def candidate(ws, tiny_model):
    """A registered candidate of the tiny model."""
    from registry.records import Candidate

    manifest = ws.artifacts.add_tree(tiny_model)
    record = Candidate(
        version="sha256:" + "0" * 64, weights=manifest.id, tokenizer="t", template="", system_prompt="", generation={},
        engine="transformers", engine_version="5", quantisation="none", bundle="b",
    )  # fmt: skip
    return ws.register(record, actor="operator", name="tiny")


@pytest.fixture
def plain_candidate(ws, tmp_path):
    """A function that registers a candidate whose weights nobody loads; `weights` are its bytes."""
    from registry.records import Candidate

    def add(weights=b"weights", **fields):
        folder = tmp_path / "plain"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        known = {
            "version": "sha256:" + "0" * 64, "weights": ws.artifacts.add_tree(folder).id, "tokenizer": "t",
            "template": "", "system_prompt": "", "generation": {}, "engine": "transformers", "engine_version": "5",
            "quantisation": "none", "bundle": "b",
        }  # fmt: skip
        return ws.register(Candidate(**{**known, **fields}), actor="operator", name="plain")

    return add


@pytest.fixture
def book(monkeypatch):
    """What the plugin harness `counting` is asked; new for every test."""
    from evals.harness import HARNESSES
    from tests.stubs import counting_harness

    monkeypatch.setitem(HARNESSES._table, "counting", "tests.stubs.counting_harness:Counting")
    monkeypatch.setitem(HARNESSES._table, "short", "tests.stubs.counting_harness:Short")
    monkeypatch.setattr(counting_harness, "BOOK", counting_harness.Book())
    return counting_harness.BOOK


@pytest.fixture
def counted(tmp_path, book):
    """A function that writes a suite of KPIs of the plugin harness and their data; each changes some fields."""
    import yaml

    def write(*kpis, rows=None, **fields):
        folder = tmp_path / "counted"
        folder.mkdir(exist_ok=True)
        rows = rows or [{"input": f"question {n}", "team": f"t{n % 3}", "case": f"c{n // 2}"} for n in range(24)]
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        usual = {
            "id": "a", "harness": "counting", "task": "ask", "data": "rows.jsonl", "samples": len(rows),
            "cluster": "case", "direction": "higher", "control": "null_model", "range": [0, 1],
            "rule": {"type": "noninferior", "margin": 0.1},
        }  # fmt: skip
        path = folder / "suite.yaml"
        body = {"suite": "counted", "version": 1, "canary": "canary-0123456789", **fields}
        path.write_text(yaml.safe_dump({**body, "kpis": [{**usual, **kpi} for kpi in kpis or ({},)]}))
        return path

    return write


@pytest.fixture
def sealed(ws):
    """A function that seals bytes for the workspace's evaluator, who may then measure with them."""
    from registry import sealing

    ws.add_principal("evaluator", "evaluator", ws.keys.create("evaluator").public, signer="operator")
    sealing.make_key(ws, "evaluator")
    ws.settings.principals["evaluator"] = "evaluator"
    return lambda data: sealing.seal(ws, data, ["evaluator"])


@pytest.fixture
def holding(ws):
    """A function that returns the files of the workspace which hold a text in the clear, compressed or not."""
    import pyarrow.parquet as pq

    def find(text):
        found = []
        for file in (path for path in ws.root.rglob("*") if path.is_file()):
            data = file.read_bytes()
            if data[:4] == b"PAR1":
                data = str(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
            if text.encode() in data:
                found.append(file.relative_to(ws.root).as_posix())
        return found

    return find
