"""Small real models for the gate's proof, trained on the standard library's source; three are spoiled on purpose.

`make` walks the quickstart's data and recipes in a workspace of its own; what is there already is not made again.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from governance import candidates
from governance.imports import import_folder
from governance.setup import copy_example, create_workspace
from registry.errors import NotFound
from registry.protocols import Progress, silent
from registry.records import Asset
from registry.workspace import Workspace
from training.data import build, load_split
from training.launch import train

TWIN_SEED = 7
LAYER = "model.layers.2.mlp.down_proj.weight"
NOISE = 8.0
"""Standard deviation of the noise, in standard deviations of the layer's own weights."""
ANSWER_STEPS = 120
KINDS = {"import": "import", "from": "import", "def": "function", "class": "class", "return": "exit", "raise": "exit",
         "if": "branch", "elif": "branch", "else:": "branch", "for": "loop", "while": "loop"}  # fmt: skip
NO_CONTENT = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
"""A chat template that lost what the user said: the roles are there, the content is not."""


@dataclass(frozen=True)
class Models:
    """Candidates by what is true of them; twins differ in their seed alone."""

    good: Asset
    twin: Asset
    bad_data: Asset
    perturbed: Asset
    answers: Asset
    answers_twin: Asset
    bad_template: Asset


def make(root: Path, progress: Progress = silent) -> tuple[Workspace, Models]:
    """Return a workspace and the candidates in it, made where they are not there yet (minutes of CPU)."""
    ws = Workspace.open(root) if (root / "hallmark.toml").exists() else create_workspace(root)
    copy_example("quickstart", root)
    specs = root / "specs"
    twin = (
        (specs / "good.yaml").read_text().replace("name: good", "name: twin").replace("seed: 2", f"seed: {TWIN_SEED}")
    )
    (specs / "twin.yaml").write_text(twin)
    for name in ("data", "bad_data"):
        build(ws, specs / f"{name}.yaml", actor="trainer", progress=progress)
    versions = {name: train(ws, specs / f"{name}.yaml", actor="trainer", progress=progress).version
                for name in ("base", "good", "twin", "bad")}  # fmt: skip
    good = versions["good"]
    noisy = _imported(ws, f"noisy-{NOISE:g}", lambda: _perturbed(ws, good))
    answers = [_imported(ws, name, lambda seed=seed: _answering(ws, good, seed), base=good)
               for name, seed in (("answers", 1), ("answers-twin", 2))]  # fmt: skip
    template = root / "no_content.jinja"
    template.write_text(NO_CONTENT)
    made = {
        "good": good, "twin": versions["twin"], "bad_data": versions["bad"], "perturbed": noisy,
        "answers": answers[0], "answers_twin": answers[1],
    }  # fmt: skip
    found = {name: candidates.create(ws, version.id, actor="trainer") for name, version in made.items()}
    spoiled = candidates.create(ws, answers[0].id, template=template, actor="trainer")
    return ws, Models(**found, bad_template=spoiled)


def write_questions(ws: Workspace, path: Path, count: int) -> int:
    """Write questions about held-out lines of code, JSON lines with `line`, `kind` and `path`; return how many."""
    rows = list(_lines(load_split(ws, ws.resolve("stdlib", "dataset").id, "domain_holdout"), seed=3))
    chosen = rows[:count]
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return len(chosen)


def _lines(rows: list[dict[str, Any]], seed: int) -> Iterator[dict[str, str]]:
    """Yield different lines whose first word says their kind, every kind in turn, files mixed."""
    pools: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        for line in row["text"].split("\n"):
            kind = KINDS.get(
                line.split(" ", 1)[0] if not line.startswith(" ") else line.split()[0] if line.split() else ""
            )
            if kind and 12 <= len(line) <= 80:
                pools.setdefault(kind, {}).setdefault(
                    line.strip(), {"line": line.strip(), "kind": kind, "path": row["path"]}
                )
    queues = [list(pool.values()) for _, pool in sorted(pools.items())]
    for number, queue in enumerate(queues):
        random.Random(seed * 100 + number).shuffle(queue)
    for turn in range(min(map(len, queues))):
        yield from (queue[turn] for queue in queues)


def _imported(ws: Workspace, name: str, make_folder: Any, base: Asset | None = None) -> Asset:
    try:
        return ws.resolve(name, "version")
    except NotFound:
        with make_folder() as folder:
            return import_folder(ws, Path(folder), name=name, base=base.id if base else None, actor="trainer")


class _Copy:
    """A version's folder in a temporary place, changed by what `change` does to the loaded model."""

    def __init__(self, ws: Workspace, version: Asset, change: Any) -> None:
        self.ws, self.version, self.change = ws, version, change
        self.scratch = tempfile.TemporaryDirectory()

    def __enter__(self) -> Path:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = self.ws.artifacts.checkout(self.version.body["manifest"], Path(self.scratch.name) / "from")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.change(model, tokenizer)
        target = Path(self.scratch.name) / "to"
        model.save_pretrained(target)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
            if (folder / name).is_file():
                (target / name).write_bytes((folder / name).read_bytes())
        return target

    def __exit__(self, *raised: object) -> None:
        self.scratch.cleanup()


def _perturbed(ws: Workspace, version: Asset) -> _Copy:
    """Noise on one layer, as a damaged file or a wrong conversion leaves it."""

    def change(model: Any, tokenizer: Any) -> None:
        torch.manual_seed(5)
        weight = model.get_parameter(LAYER)
        with torch.no_grad():
            weight += NOISE * weight.std() * torch.randn_like(weight)

    return _Copy(ws, version, change)


def _answering(ws: Workspace, version: Asset, seed: int) -> _Copy:
    """A short fine-tuning on chats: a line of code is asked, its kind is the answer; the loss falls on the answer."""
    rows = list(_lines(load_split(ws, ws.resolve("stdlib", "dataset").id, "domain_train"), seed=4))

    def change(model: Any, tokenizer: Any) -> None:
        torch.set_num_threads(1)  # threads inside so small an operation mostly wait for each other
        torch.manual_seed(seed)
        draws = random.Random(seed)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        model.train()
        for _ in range(ANSWER_STEPS):
            batch = [_chat(tokenizer, row) for row in draws.sample(rows, 16)]
            width = max(len(ids) for ids, _ in batch)
            tokens = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch])
            labels = torch.tensor([[-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in batch])
            logits = model(input_ids=tokens).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        model.eval()

    return _Copy(ws, version, change)


def _chat(tokenizer: Any, row: dict[str, str]) -> tuple[list[int], int]:
    """Return a chat's ids and where its answer begins."""
    asked = [{"role": "user", "content": row["line"]}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    before = tokenizer(text, add_special_tokens=False)["input_ids"]
    after = tokenizer(row["kind"], add_special_tokens=False)["input_ids"]
    return [*before, *after, tokenizer.eos_token_id], len(before)
