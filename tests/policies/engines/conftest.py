"""A tiny random model folder, and real engines over it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

# Read when torch is first imported: spinning threads would fight with the engine process.
os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"})

TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ tools | map(attribute='function.name') | join(' ') }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE of 512 tokens with a chat template; `</s>` is token 1."""
    import argparse

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([Path(argparse.__file__).read_text()], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = TEMPLATE
    return wrapped


@pytest.fixture(scope="session")
def make_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random model of an architecture: `make_folder("Mistral", sliding_window=8)`."""
    import importlib

    import torch

    torch.set_num_threads(1)

    def make(architecture: str = "Mistral", module: str = "", config: str = "", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        package = f"transformers.models.{module or architecture.lower()}"
        shape = {
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, **changes,
        }  # fmt: skip
        configurations = importlib.import_module(f"{package}.configuration_{module or architecture.lower()}")
        models = importlib.import_module(f"{package}.modeling_{module or architecture.lower()}")
        torch.manual_seed(7)
        model = getattr(models, f"{architecture}ForCausalLM")(
            getattr(configurations, config or f"{architecture}Config")(**shape)
        )
        with torch.no_grad():  # sharper than a fresh model, so that greedy choices are no coin tosses
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def folder(make_folder: Callable[..., Path]) -> Path:
    """The tiny Mistral of the tests."""
    return make_folder("Mistral", sliding_window=None)


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random LoRA for a base: `make_adapter(folder, seed=1, targets=("q_proj",))`."""
    import torch
    from safetensors.torch import load_file, save_file

    def make(
        base: Path, *, seed: int, targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"), rank: int = 4,
        size: float = 0.5, **config: Any,
    ) -> Path:  # fmt: skip
        folder = tmp_path_factory.mktemp("adapter")
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, weight in load_file(base / "model.safetensors").items():
            module = name.removesuffix(".weight")
            if module.rpartition(".")[2] in targets:
                key, shape = f"base_model.model.{module}", weight.shape
                tensors[f"{key}.lora_A.weight"] = torch.randn(rank, shape[1], generator=generator) * size
                tensors[f"{key}.lora_B.weight"] = torch.randn(shape[0], rank, generator=generator) * size
        save_file(tensors, folder / "adapter_model.safetensors")
        said = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), "bias": "none",
                "task_type": "CAUSAL_LM", "base_model_name_or_path": "somewhere/else", **config}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def long_folder(make_folder: Callable[..., Path]) -> Path:
    """The same Mistral with room for long answers."""
    return make_folder("Mistral", sliding_window=None, max_position_embeddings=8192)


@pytest.fixture(scope="session")
def two_adapters(long_folder: Path, make_adapter: Callable[..., Path]) -> dict[str, Path]:
    """Two adapters of that model, `one` and `two`."""
    targets = ("o_proj", "gate_proj", "up_proj")
    return {"one": make_adapter(long_folder, seed=1), "two": make_adapter(long_folder, seed=2, targets=targets)}


@pytest.fixture(scope="session")
def vllm(long_folder: Path, two_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real vLLM with both adapters, named `tiny`; started once for all tests, since it takes a minute."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from policies.engines import start

    place = tmp_path_factory.mktemp("v")
    prompt = place / "system.txt"
    prompt.write_text("be brief", encoding="utf-8")
    options = {"threads": 1, "dtype": "float32", "system_prompt_file": prompt, "adapters": two_adapters,
               "max_logprobs": 5}  # fmt: skip
    handle = start("vllm", long_folder, place / "v.sock", served_name="tiny", log=place / "log", options=options)
    handle.wait_ready(600)
    yield handle
    handle.stop()


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running built-in engine on the tiny Mistral, named `tiny`."""
    from policies.engines import start

    place = tmp_path_factory.mktemp("e")
    handle = start(
        "transformers", folder, place / "e.sock", served_name="tiny", log=place / "log", options={"threads": 1}
    )
    handle.wait_ready(120)
    yield handle
    handle.stop()


@pytest.fixture(scope="module")
def client(engine: Any) -> Iterator[httpx.Client]:
    """An HTTP client of that engine."""
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(engine.uds)), base_url="http://engine", timeout=60
    ) as opened:
        yield opened


@pytest.fixture
def listening() -> Callable[[int], list[str]]:
    """Return a function giving `address:port`, in hexadecimal, of the TCP sockets on which a process listens."""

    def found(pid: int) -> list[str]:
        opened = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                opened.add(str(link.readlink()))
        tables = [Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in opened]

    return found
