from __future__ import annotations

import json

import pytest
import torch

from registry.errors import Tampered
from training import checkpoint
from training.checkpoint import Progressed


def make(seed: int):
    torch.manual_seed(seed)
    model = torch.nn.Linear(6, 4)
    return model, {
        "muon": torch.optim.Muon([model.weight], lr=0.02),
        "adamw": torch.optim.AdamW([model.bias], lr=0.01),
    }


def take_steps(model, optimisers, count: int) -> None:
    for _ in range(count):
        model(torch.randn(3, 6)).square().sum().backward()
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad()


def test_what_is_loaded_goes_on_bit_for_bit(tmp_path):
    model, optimisers = make(0)
    take_steps(model, optimisers, 3)
    checkpoint.save(tmp_path, model, optimisers, Progressed(3, 1.5, {"loss": 0.25}))
    take_steps(model, optimisers, 4)
    again, others = make(9)
    assert checkpoint.load(tmp_path, again, others) == Progressed(3, 1.5, {"loss": 0.25})
    take_steps(again, others, 4)
    assert checkpoint.state_digest(again.state_dict()) == checkpoint.state_digest(model.state_dict())


def test_two_newest_are_kept_and_the_newest_loaded(tmp_path):
    model, optimisers = make(0)
    for step in (1, 2, 10):
        take_steps(model, optimisers, 1)
        checkpoint.save(tmp_path, model, optimisers, Progressed(step, 0.0, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]
    loaded = checkpoint.load(tmp_path, *make(1))
    assert loaded is not None
    assert loaded.step == 10


def test_half_written_is_never_loaded(tmp_path):
    (tmp_path / "step-00000005.tmp-77").mkdir()
    assert checkpoint.load(tmp_path, *make(0)) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimisers.safetensors"])
def test_an_altered_tensor_is_refused(tmp_path, name):
    model, optimisers = make(0)
    take_steps(model, optimisers, 2)
    path = checkpoint.save(tmp_path, model, optimisers, Progressed(2, 0.0, {})) / name
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + header])
    tensor = next(name for name in entries if name.startswith(("weight", "muon")))
    data[8 + header + entries[tensor]["data_offsets"][0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered, match="do not hash|does not hash"):
        checkpoint.load(tmp_path, *make(1))


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
def test_a_torn_file_is_refused(tmp_path, name):
    model, optimisers = make(0)
    take_steps(model, optimisers, 1)
    path = checkpoint.save(tmp_path, model, optimisers, Progressed(1, 0.0, {})) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(Tampered, match="cannot be read"):
        checkpoint.load(tmp_path, *make(1))


def test_digest_sees_names_types_shapes_and_bits():
    state = {"a": torch.ones(2, 2), "b": torch.zeros(1)}
    digests = {
        checkpoint.state_digest(other)
        for other in (
            state,
            {**state, "a": torch.ones(4)},
            {**state, "a": torch.ones(2, 2, dtype=torch.bfloat16)},
            {"c": state["a"], "b": state["b"]},
            {**state, "b": -torch.zeros(1)},
        )
    }
    assert len(digests) == 5
    assert checkpoint.state_digest(dict(reversed(state.items()))) == checkpoint.state_digest(state)
