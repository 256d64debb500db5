"""What an adapter may hold, whether it fits its base, and what merging them gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry import adapters
from registry.errors import NotFound, Refused, SpecError

WEIGHT = torch.arange(24, dtype=torch.bfloat16).reshape(4, 6)
KEY = "base_model.model.layers.0.proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"layers.0.proj.weight": WEIGHT}, folder / "model-00001-of-00002.safetensors")
    save_file({"layers.1.proj.weight": WEIGHT + 1}, folder / "model-00002-of-00002.safetensors")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder)
    return folder


def write(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> None:
    a = torch.linspace(-1, 1, 12).reshape(2, 6)
    b = torch.linspace(1, 2, 8).reshape(4, 2)
    save_file(tensors or {f"{KEY}.lora_A.weight": a, f"{KEY}.lora_B.weight": b}, folder / adapters.WEIGHTS)
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, **config}
    (folder / adapters.CONFIG).write_text(json.dumps(said), encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8 / 2**0.5),
        ({"alpha_pattern": {"proj": 2}}, 1.0),
        ({"alpha_pattern": {"roj": 2, "0.proj": 6, "proj": 2}}, 3.0),
        ({"r": 7, "rank_pattern": {"layers.0.proj": 2}}, 4.0),
        ({"init_lora_weights": "gaussian"}, 4.0),
    ],
)
def test_merging_adds_the_scaled_product_in_float32(
    base: Path, adapter: Path, config: dict[str, Any], scale: float
) -> None:
    write(adapter, **config)
    pair = load_file(adapter / adapters.WEIGHTS)
    assert adapters.merge(base, adapter) == 1
    merged = load_file(base / "model-00001-of-00002.safetensors")["layers.0.proj.weight"]
    wanted = WEIGHT.double() + scale * (pair[f"{KEY}.lora_B.weight"].double() @ pair[f"{KEY}.lora_A.weight"].double())
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(load_file(base / "model-00002-of-00002.safetensors")["layers.1.proj.weight"], WEIGHT + 1)
    assert sorted(path.name for path in base.iterdir()) == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"), ({"peft_type": "IA3"}, "IA3"),
        ({"auto_map": {"a": "b"}}, "auto_map"),
        ({"rank_pattern": {"q.*proj": 4}}, "expression"), ({"alora_invocation_tokens": [1]}, "alora"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"), ({"target_parameters": ["x"]}, "target_parameters"),
    ],
)  # fmt: skip
def test_more_than_plain_lora_is_refused_by_name(base: Path, adapter: Path, config: dict[str, Any], named: str) -> None:
    write(adapter, **config)
    with pytest.raises(Refused, match=named):
        adapters.check(adapter, base)


@pytest.mark.parametrize("config", [{"r": 0}, {"r": 100_000}, {"r": "2"}, {"lora_alpha": None}, {"rank_pattern": [1]}])
def test_numbers_that_are_none_are_refused(adapter: Path, config: dict[str, Any]) -> None:
    write(adapter, **config)
    with pytest.raises(SpecError):
        adapters.read(adapter)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"base_model.model.lora_magnitude_vector": torch.ones(1)}, "no part of plain LoRA"),
        ({"base_model.model.embed.lora_embedding_A": torch.ones(1)}, "no part of plain LoRA"),
        ({f"{KEY.replace('0', '7')}.lora_A.weight": torch.ones(2, 6),
          f"{KEY.replace('0', '7')}.lora_B.weight": torch.ones(4, 2)}, "layers.7.proj"),
        ({f"{KEY.replace('0', '1')}.lora_A.weight": torch.ones(2, 6)}, "half a pair"),
        ({f"{KEY}.lora_A.weight": torch.ones(2, 5)}, "4 x 5, the base has one of 4 x 6"),
        ({f"{KEY}.lora_A.weight": torch.ones(3, 6)}, "not of rank 2"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(base: Path, adapter: Path, changes: dict[str, Any], match: str) -> None:
    write(adapter, {**load_file(adapter / adapters.WEIGHTS), **changes})
    with pytest.raises(Refused, match=match):
        adapters.check(adapter, base)


def test_folders_that_are_no_adapters_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=adapters.CONFIG):
        adapters.read(base)
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(Refused, match=r"adapter_model\.bin"):
        adapters.read(pickled)
    (adapter / adapters.WEIGHTS).write_bytes(b"\xff" * 16)
    with pytest.raises(SpecError, match="longer than the file"):
        adapters.check(adapter, base)
    (adapter / adapters.CONFIG).write_text("[")
    with pytest.raises(SpecError, match="not JSON"):
        adapters.read(adapter)


def test_quantised_weights_are_not_merged(base: Path, adapter: Path) -> None:
    save_file({"layers.0.proj.weight": torch.ones(4, 6, dtype=torch.int8)}, base / "model-00001-of-00002.safetensors")
    with pytest.raises(Refused, match="quantised"):
        adapters.merge(base, adapter)
