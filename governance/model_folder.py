"""What a Hugging Face folder holds, read without loading any of it: no torch, no pickle, no code of the folder's own.

The safetensors header is 8 bytes of little-endian length and that much JSON: name to dtype, shape and the two offsets
of its bytes (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".model.pt")
UNSUPPORTED = (".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".pb", ".tflite", ".mlmodel", ".nemo", ".keras")
CODE = (".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".exe", ".sh", ".ipynb")
MAX_HEADER = 100_000_000
MAX_JSON = 256 << 20
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, by safetensors dtype."""
ADAPTER = "adapter_config.json"


@dataclass(slots=True)
class ModelFolder:
    """What was found: the configuration, the tensors' element counts by file, and one line per problem."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    elements: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    indexed: frozenset[str] = frozenset()

    @property
    def is_adapter(self) -> bool:
        """Whether this is a PEFT folder, which changes a base and stands on no weights of its own."""
        return (self.folder / ADAPTER).is_file()

    @property
    def architecture(self) -> str:
        """The first of `architectures`, empty when there is none."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def parameters(self) -> int:
        """Elements of all tensors that make up the model: of the indexed shards, else of `model.safetensors`, else all.

        Some folders carry the same weights twice, in another layout (`consolidated.safetensors`); those count once.
        """
        chosen = self.indexed or ({"model.safetensors"} & self.elements.keys()) or self.elements.keys()
        return sum(count for name in chosen for count in self.elements.get(name, {}).values())


def read(folder: Path) -> ModelFolder:
    """Return what a folder holds, with everything that forbids its import."""
    found = ModelFolder(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:
        found.problems += _format(name)
        if name.endswith(".json"):
            _read_json(found, name)
        elif name.endswith(".safetensors"):
            try:
                found.elements[name] = elements(folder / name)
            except ValueError as error:
                found.problems.append(f"`{name}`: {error}")
                found.elements[name] = {}
    if not found.elements:
        found.problems.append("no safetensors weights: nothing here can be loaded without running a pickle")
    if found.is_adapter:
        if not isinstance(found.config.get("peft_type"), str):
            found.problems.append(f"`{ADAPTER}`: no `peft_type`")
    elif not (folder / "config.json").is_file():
        found.problems.append("`config.json` is missing")
    elif not found.architecture:
        found.problems.append("`config.json`: no `architectures`, so no engine knows what to build")
    return found


def elements(path: Path) -> dict[str, int]:
    """Return the number of elements of every tensor of a safetensors file.

    Raises ValueError, saying what is wrong, for a file whose header is malformed, whose tensors leave the file,
    overlap, leave gaps, or are not as long as their shape and dtype say.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ValueError("its header is longer than the file, or than a header may be")
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"its header is no JSON: {type(error).__name__}") from None
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    counts, spans = {}, []
    for name, tensor in header.items():
        counts[name], begin, end = _tensor(name, tensor)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise ValueError(f"tensor `{name}` {'overlaps the one before it' if begin < position else 'leaves a gap'}")
        position = end
    if position != size - 8 - length:
        raise ValueError(f"its tensors end at byte {position} of {size - 8 - length}: the file is cut short or padded")
    return counts


def _tensor(name: str, tensor: Any) -> tuple[int, int, int]:
    """Return (elements, first byte, byte after the last) of a header's entry. Raises ValueError."""
    try:
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"tensor `{name}` has no dtype, shape and two offsets") from None
    whole = [*shape, begin, end] if isinstance(shape, list) else [None]
    if dtype not in BITS or any(type(value) is not int or value < 0 for value in whole):
        raise ValueError(f"tensor `{name}` has a dtype, shape or offset that does not exist")
    count = math.prod(shape)
    if (end - begin) * 8 != count * BITS[dtype]:
        raise ValueError(f"tensor `{name}` is {end - begin} bytes long, its shape says {count * BITS[dtype] // 8}")
    return count, begin, end


def _format(name: str) -> Iterator[str]:
    lower = name.lower()
    if lower.endswith(PICKLED):
        yield f"`{name}`: pickled or Python-only arrays run code when they are read; save safetensors instead"
    elif lower.endswith(UNSUPPORTED):
        yield f"`{name}`: this format is not supported; convert it to safetensors"
    elif lower.endswith(CODE):
        yield f"`{name}`: code; a model that brings its own is not imported"


def _read_json(found: ModelFolder, name: str) -> None:
    path = found.folder / name
    try:
        value = json.loads(path.read_bytes() if path.stat().st_size <= MAX_JSON else b"")
    except (ValueError, RecursionError) as error:
        found.problems.append(f"`{name}`: not JSON: {error}")
        return
    for key in _keys(value, {"auto_map", "trust_remote_code"}):
        found.problems.append(f"`{name}`: `{key}` asks for code from outside the library; it is not imported")
    if name in {"config.json", ADAPTER}:
        if not isinstance(value, dict):
            found.problems.append(f"`{name}`: not a JSON object")
        elif name == ADAPTER or not found.config:
            found.config = value
    if name.endswith(".safetensors.index.json"):
        _read_index(found, name, value)


def _read_index(found: ModelFolder, name: str, value: Any) -> None:
    shards = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        found.problems.append(f"`{name}`: no `weight_map` of tensor to file")
        return
    listed = frozenset(shards.values())
    for shard in sorted(listed):
        path = found.folder / shard
        if not re.fullmatch(r"[\w.-]+", shard) or not path.is_file():
            found.problems.append(f"`{name}`: shard `{shard}` is missing")
            continue
        try:
            held = elements(path)
        except ValueError:
            continue  # told where the file itself is read
        missing = sorted(tensor for tensor, place in shards.items() if place == shard and tensor not in held)
        if missing:
            found.problems.append(f"`{name}`: shard `{shard}` does not hold tensor `{missing[0]}`")
    if name == "model.safetensors.index.json":
        found.indexed = listed


def _keys(value: Any, wanted: set[str]) -> Iterator[str]:
    """Yield the wanted keys with a value, at any depth."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            yield from (key for key in wanted & item.keys() if item[key])
            todo += item.values()
        elif isinstance(item, list):
            todo += item


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names a tensor twice")
    return found
