"""Batched decoding equals transformers' `generate` alone, for several architectures, while sequences come and go."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from policies.engines.batcher import Batcher
from policies.engines.constraints import Constraints
from policies.engines.decoding import News, Sequence
from policies.engines.language_model import LanguageModel
from policies.engines.sampling import Sampler
from policies.engines.text_stream import TextStream
from policies.engines.wire import Settings
from registry.errors import EngineFailure, SpecError

EOS = 1
LAYERS = ["sliding_attention", "full_attention"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mistral": {"architecture": "Mistral", "sliding_window": None},
    "mistral, window 9": {"architecture": "Mistral", "sliding_window": 9},
    "llama": {"architecture": "Llama"},
    "qwen3": {"architecture": "Qwen3"},
    "mixtral": {"architecture": "Mixtral", "num_local_experts": 4, "sliding_window": None},
    "gemma2, capped, mixed windows": {"architecture": "Gemma2", "sliding_window": 9, "layer_types": LAYERS},
    "gemma3, mixed windows": {
        "architecture": "Gemma3", "config": "Gemma3TextConfig", "sliding_window": 9, "layer_types": LAYERS,
    },
}  # fmt: skip


class Bench:
    """A batcher stepped by hand."""

    def __init__(
        self, folder: Path, tokenizer: Any, *, most_rows: int = 6, budget: int = 10_000, device: str = "cpu"
    ) -> None:
        self.model = LanguageModel(folder, dtype="float32", device=device)
        backend = tokenizer.backend_tokenizer
        constraints = Constraints(backend.to_str(), self.model.vocab_size, [EOS])
        sampler = Sampler(self.model.vocab_size, [EOS], constraints, self.model.device)
        self.news: list[News] = []
        self.batcher = Batcher(
            self.model, sampler, frozenset({EOS}), self.news.extend, most_rows=most_rows, budget=budget
        )
        self._backend = backend

    def sequence(self, prompt: list[int], limit: int, **settings: Any) -> Sequence:
        settings = {"temperature": 0, "ignore_eos": True, **settings}
        text = TextStream(self._backend, stream=False)
        return Sequence(0, prompt, Settings(**settings), limit, self.news.append, text)

    def run(self, steps: int = 10_000) -> int:
        """Step until all is done; return the most rows seen together."""
        most = 0
        while self.batcher.load and steps:
            self.batcher.step()
            most, steps = max(most, len(self.model.lengths)), steps - 1
        return most


def _prompts(count: int, size: int = 512, longest: int = 40) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(5, size) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


def _generate(folder: Path, prompts: list[list[int]], limits: list[int], device: str = "cpu") -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval().to(device)
    texts = []
    for prompt, limit in zip(prompts, limits, strict=True):
        ids = torch.tensor([prompt], device=device)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        texts.append(out[0, len(prompt) :].tolist())
    return texts


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batched_greedy_text_equals_generate_alone(
    name: str, device: str, make_folder: Callable[..., Path], tokenizer: Any
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    shape = dict(ARCHITECTURES[name])
    architecture = shape.pop("architecture")
    folder = make_folder(architecture, **shape)
    bench = Bench(folder, tokenizer, device=device)
    prompts = _prompts(10)
    limits = [4 + (7 * number) % 23 for number in range(len(prompts))]
    pending = [bench.sequence(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    waiting = list(pending)
    bench.batcher.submit([waiting.pop(0) for _ in range(4)])
    for _ in range(12):  # newcomers join while others are in the middle
        bench.run(steps=2)
        if waiting:
            bench.batcher.submit([waiting.pop(0)])
    most = bench.run()
    assert most > 1
    expected = _generate(folder, prompts, limits, device)
    assert [one.tokens for one in pending] == expected
    assert len({token for text in expected for token in text}) > 10  # no degenerate text that would hide a mistake


def test_memory_is_regrown_and_released_without_changing_texts(folder: Path, tokenizer: Any) -> None:
    bench = Bench(folder, tokenizer, most_rows=40)
    prompts = [*_prompts(20), _prompts(1, longest=3)[0] * 50, *_prompts(12)]
    limits = [3 + number % 5 for number in range(20)] + [150] + [9] * 12
    pending = [bench.sequence(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    bench.batcher.submit(pending)
    assert bench.run() > 16
    assert [one.tokens for one in pending] == _generate(folder, prompts, limits)


def test_budget_and_row_limit_hold(folder: Path, tokenizer: Any) -> None:
    bench = Bench(folder, tokenizer, most_rows=4, budget=100)
    bench.batcher.submit([bench.sequence([5] * 10, 20) for _ in range(7)])
    assert bench.run() == 3  # 3 rows of 30 fit into 100
    bench.batcher.submit([bench.sequence([5] * 100, 100)])
    assert bench.run() == 1  # alone it may exceed the budget
    bench.batcher.submit([bench.sequence([5], 2) for _ in range(9)])
    assert bench.run() == 4


def test_cancelled_sequences_leave_at_once(folder: Path, tokenizer: Any) -> None:
    bench = Bench(folder, tokenizer, most_rows=2)
    pending = [bench.sequence([5, 6], 100) for _ in range(3)]
    bench.batcher.submit(pending)
    bench.run(steps=3)
    for one in pending:
        one.cancelled = True
    assert bench.run() == 0
    assert [len(one.tokens) for one in pending] == [3, 3, 0]


def test_ends_at_an_end_token_unless_ignored(folder: Path, tokenizer: Any) -> None:
    bench = Bench(folder, tokenizer)
    bias = ((EOS, 1000.0),)
    ended = bench.sequence([5], 5, ignore_eos=False, logit_bias=bias)
    ignored = bench.sequence([5], 5, logit_bias=bias)
    stopped = bench.sequence([5], 5, logit_bias=((50, 1000.0),), stop_token_ids=frozenset({50}))
    bench.batcher.submit([ended, ignored, stopped])
    bench.run()
    assert (ended.tokens, ignored.tokens, stopped.tokens) == ([EOS], [EOS] * 5, [50])


def test_a_failing_step_fails_its_requests_and_the_next_ones_work(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(folder, tokenizer)
    bench.batcher.start()
    real, told = bench.model.decode, []
    monkeypatch.setattr(bench.model, "decode", lambda tokens: 1 / 0)
    heard = threading.Event()
    bench.batcher._deliver = lambda news: (told.extend(news), heard.set())
    bench.batcher.submit([bench.sequence([5], 9), bench.sequence([6], 9)])
    assert heard.wait(30)
    assert [(one.finish, "division by zero" in one.error) for one in told] == [("error", True)] * 2
    monkeypatch.setattr(bench.model, "decode", real)
    heard.clear()
    bench.batcher.submit([bench.sequence([5], 9)])
    assert heard.wait(30)
    assert told[-1].finish == "length"
    bench.batcher.stop()


def test_spoiled_rows_do_not_spoil_later_ones(folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(folder, tokenizer)
    real = bench.model.decode

    def poisoned(tokens: list[int]) -> Any:
        with torch.inference_mode():
            for buffer in (*bench.model._cache._keys, *bench.model._cache._values):
                buffer[1] = float("nan")
        return real(tokens)

    pending = [bench.sequence([5, 6], 6), bench.sequence([8, 9], 6)]
    bench.batcher.submit(pending)
    bench.run(steps=1)
    monkeypatch.setattr(bench.model, "decode", poisoned)
    bench.run(steps=1)
    monkeypatch.setattr(bench.model, "decode", real)
    assert len(bench.model.lengths) == 1
    later = bench.sequence([8, 9], 6)
    bench.batcher.submit([later])
    bench.run()
    expected = _generate(folder, [[5, 6], [8, 9]], [6, 6])
    assert [pending[0].tokens, later.tokens] == expected
    assert len(pending[1].tokens) == 1


def test_missing_weights_are_refused(make_folder: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_folder("Mistral", sliding_window=None)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineFailure, match=r"up_proj"):
        LanguageModel(folder, dtype="float32", device="cpu")


def test_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match="float7"):
        LanguageModel(folder, dtype="float7", device="cpu")
