"""Adapters beside the base in the built-in engine: each row gets its own, and says what the merged model says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from policies.engines import start
from policies.engines.language_model import LanguageModel
from registry import adapters
from registry.errors import Refused, SpecError

PROMPT = [5, 9, 40, 77, 120]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def two(folder: Path, make_adapter: Make) -> dict[str, Path]:
    return {"one": make_adapter(folder, seed=1), "two": make_adapter(folder, seed=2, targets=("o_proj", "lm_head"))}


def _merged(folder: Path, adapter: Path, place: Path) -> Path:
    copy = shutil.copytree(folder, place)
    assert adapters.merge(copy, adapter) > 0
    return copy


def _generated(folder: Path, count: int = 12) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = model.generate(torch.tensor([PROMPT]), max_new_tokens=count, do_sample=False, eos_token_id=None)
    return made[0, len(PROMPT) :].tolist()


def _decoded(model: LanguageModel, lanes: list[str], count: int = 12) -> list[list[int]]:
    model.forget()
    last = model.prefill([PROMPT] * len(lanes), lanes).argmax(-1).tolist()
    texts = [[token] for token in last]
    for _ in range(count - 1):
        last = model.decode(last).argmax(-1).tolist()
        for text, token in zip(texts, last, strict=True):
            text.append(token)
    return texts


def test_each_row_says_what_its_merged_model_says(folder: Path, two: dict[str, Path], tmp_path: Path) -> None:
    wanted = {name: _generated(_merged(folder, path, tmp_path / name)) for name, path in two.items()}
    wanted[""] = _generated(folder)
    assert len({tuple(text) for text in wanted.values()}) == 3
    model = LanguageModel(folder, dtype="float32", device="cpu", adapters=two)
    lanes = ["one", "", "two", "one"]
    assert _decoded(model, lanes) == [wanted[lane] for lane in lanes]
    assert _decoded(model, ["two"]) == [wanted["two"]]


def test_a_row_keeps_its_adapter_when_others_leave(folder: Path, two: dict[str, Path]) -> None:
    model = LanguageModel(folder, dtype="float32", device="cpu", adapters=two)
    alone = _decoded(model, ["two"], 6)[0]
    model.forget()
    model.prefill([PROMPT] * 3, ["one", "", "two"])
    model.drop(0)  # the last row takes its place
    text = [alone[0]]
    for _ in range(5):
        text.append(model.decode([text[-1], 7])[0].argmax().item())
    assert text == alone


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("Llama", {"use_rslora": True}),
        ("Qwen3", {"alpha_pattern": {"layers.0.self_attn.q_proj": 1, "down_proj": 16}}),
        ("GPT2", {"fan_in_fan_out": True}),
    ],
)
def test_scales_and_transposed_weights_are_those_of_peft(
    make_folder: Make, make_adapter: Make, tmp_path: Path, architecture: str, config: dict[str, Any]
) -> None:
    if architecture == "GPT2":
        base = _gpt2(tmp_path)
        adapter = _transposed(make_adapter(base, seed=3, targets=("c_attn", "c_proj"), **config))
    else:
        base = make_folder(architecture)
        adapter = make_adapter(base, seed=3, **config)
    beside = LanguageModel(base, dtype="float32", device="cpu", adapters={"a": adapter})
    merged = LanguageModel(_merged(base, adapter, tmp_path / "merged"), dtype="float32", device="cpu")
    ours, theirs = beside.prefill([PROMPT], ["a"]), merged.prefill([PROMPT])
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)
    beside.forget()
    assert not torch.allclose(beside.prefill([PROMPT], [""]), theirs, atol=0.1)


def _gpt2(tmp_path: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=2, n_positions=256)).save_pretrained(folder)
    return folder


def _transposed(adapter: Path) -> Path:
    """Give an adapter made for [out, in] weights the shapes for [in, out] ones, as PEFT writes them."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    swapped = {}
    for name in tensors:
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            swapped[name], swapped[other] = tensors[other].T.contiguous(), tensors[name].T.contiguous()
    save_file(swapped, file)
    return adapter


def test_the_model_of_a_request_selects_the_adapter(
    folder: Path, two: dict[str, Path], tmp_path: Path, tokenizer: Any
) -> None:
    handle = start(
        "transformers", folder, tmp_path / "s", served_name="tiny", log=tmp_path / "log",
        options={"threads": 1, "dtype": "float32", "adapters": two},
    )  # fmt: skip
    body = {"prompt": [PROMPT], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    try:
        handle.wait_ready(120)
        transport = httpx.HTTPTransport(uds=str(handle.uds))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
            listed = [one["id"] for one in client.get("/v1/models").json()["data"]]
            answers = {name: client.post("/v1/completions", json={**body, "model": name}).json() for name in listed}
            unknown = client.post("/v1/completions", json={**body, "model": "three"})
    finally:
        handle.stop()
    assert listed == ["tiny", "one", "two"]
    assert unknown.status_code == 404
    model = LanguageModel(folder, dtype="float32", device="cpu", adapters=two)
    wanted = _decoded(model, ["", "one", "two"])
    for text, (name, answer) in zip(wanted, answers.items(), strict=True):
        assert answer["choices"][0]["text"] == tokenizer.decode(text, skip_special_tokens=True).rstrip("\ufffd")
        assert answer["model"] == name


def test_adapters_are_checked_before_anything_starts(folder: Path, make_adapter: Make, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, **adapter: Path) -> None:
        with pytest.raises(error, match=match):
            start("transformers", folder, tmp_path / "s", served_name="t", log=tmp_path / "log",
                  options={"adapters": adapter})  # fmt: skip

    refused(Refused, "use_dora", a=make_adapter(folder, seed=1, use_dora=True))
    with pytest.raises(SpecError, match="no name of an adapter"):
        start("transformers", folder, tmp_path / "s", served_name="t", log=tmp_path / "log",
              options={"adapters": {"../a": make_adapter(folder, seed=1)}})  # fmt: skip
    assert not (tmp_path / "log").exists()
