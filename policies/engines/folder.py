"""What both engines read from a model folder without importing torch: context length, ends of text, chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry import adapters as registered
from registry.adapters import Lora
from registry.errors import NotFound, Refused, SpecError

DEFAULT_LENGTH = 2048
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
ADAPTER = "adapter_config.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json",
           "preprocessor_config.json")  # fmt: skip


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of the folder, empty when the file is absent; SpecError when it is not an object."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise SpecError(f"not JSON: {error}", file=str(path)) from None
    if not isinstance(value, dict):
        raise SpecError("not a JSON object", file=str(path))
    return value


def check(folder: Path) -> None:
    """Raise unless a folder can be loaded as it is, from itself alone: safetensors, no pickle, no code of its own.

    Raises:
        NotFound: no config, tokenizer or safetensors weights.
        Refused: it asks for code (`auto_map`), holds pickled weights, names weights outside, or is a PEFT folder, which
            would pull in its base from wherever `adapter_config.json` says.
        SpecError: a JSON file is none.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise NotFound(f"`{folder}` has no `{name}`", hint="engines serve Hugging Face folders")
    if not any(folder.glob("*.safetensors")):
        raise NotFound(f"`{folder}` has no safetensors weights", hint="pickled weights are never loaded")
    pickled = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLED)
    if pickled:
        raise Refused(f"`{pickled[0]}` is pickled: loading it could run code", hint="convert it to safetensors")
    if (folder / ADAPTER).exists():
        raise Refused(f"`{ADAPTER}` names weights outside this folder", hint="merge the adapter into its base first")
    for name in CONFIGS:
        if _asks_for_code(read_json(folder, name)):
            raise Refused(f"`{name}` asks for code of its own (`auto_map`)", hint="no code of a model is ever run")
    for path in folder.glob("*.safetensors.index.json"):
        _check_index(folder, path.name)


def stored_quantisation(folder: Path) -> str | None:
    """Return the quantisation that the weights are stored in, as their config.json names it; None for none."""
    return quantisation_of(read_json(folder, "config.json"))


def quantisation_of(config: Mapping[str, Any]) -> str | None:
    """Return the quantisation that a model's configuration names; None for none."""
    found = config.get("quantization_config")
    if not isinstance(found, dict) or not found:
        return None
    return str(found.get("quant_method") or found.get("quant_algo") or "unnamed")


def check_adapters(adapters: Mapping[str, Path], base: Path) -> list[Lora]:
    """Return the adapters, once each has a fit name, is plain LoRA and fits the base (`registry.adapters.check`)."""
    loras = []
    for name, folder in adapters.items():
        if not NAME.fullmatch(name):
            raise SpecError(
                f"`{name}` is no name of an adapter", field="adapters", hint="letters, digits, `.`, `_`, `-`"
            )
        loras.append(registered.check(folder, base))
    return loras


def _asks_for_code(value: Any) -> bool:
    """Say whether a configuration, or one inside it, has an `auto_map`."""
    if isinstance(value, dict):
        return bool(value.get("auto_map")) or any(_asks_for_code(item) for item in value.values())
    return isinstance(value, list) and any(_asks_for_code(item) for item in value)


def _check_index(folder: Path, name: str) -> None:
    """Refuse an index of shards that names anything but safetensors files beside it."""
    shards = read_json(folder, name).get("weight_map")
    if not isinstance(shards, dict):
        raise SpecError("no `weight_map`", file=str(folder / name))
    for shard in sorted({str(value) for value in shards.values()}):
        if Path(shard).name != shard or not shard.endswith(".safetensors") or not (folder / shard).is_file():
            raise Refused(f"`{name}` names `{shard}`, which is no safetensors file of this folder", hint="restore it")


def _text_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder, "config.json")
    return {**config, **(config.get("text_config") or {})}


def head_size(folder: Path) -> int | None:
    """Return the size of an attention head, None when the config does not tell."""
    config = _text_config(folder)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if config.get("head_dim"):
        return int(config["head_dim"])
    return int(hidden) // int(heads) if hidden and heads else None


def context_length(folder: Path, wanted: int | None = None) -> int:
    """Return the most tokens of prompt and text together: the config's limit, or `wanted` when that is lower."""
    config = _text_config(folder)
    limit = int(config.get("max_position_embeddings") or config.get("n_positions") or DEFAULT_LENGTH)
    if wanted is None:
        return limit
    if not 1 < wanted <= limit:
        raise SpecError(f"`max_model_len` must be between 2 and {limit}, not {wanted}", field="max_model_len")
    return wanted


def end_tokens(folder: Path, tokenizer_eos: int | None) -> frozenset[int]:
    """Return the token ids that end a text: of generation_config.json, of config.json, of the tokenizer."""
    found: set[int] = set() if tokenizer_eos is None else {tokenizer_eos}
    for name in ("generation_config.json", "config.json"):
        ids = read_json(folder, name).get("eos_token_id")
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def generation_config(folder: Path, override: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the folder's generation defaults with `override` laid over them."""
    return {**read_json(folder, "generation_config.json"), **(override or {})}


def chat_template(folder: Path, *, system_prompt: str | None = None, template: str | None = None) -> str | None:
    """Return the Jinja chat template, or None when there is none.

    With `system_prompt` the template first replaces every system and developer message by that one, so that the
    engine runs what was certified, whatever a caller sends. Both engines get the same text.
    """
    source = template if template is not None else _stored_template(folder)
    if source is None or system_prompt is None:
        return source
    literal = json.dumps(system_prompt, ensure_ascii=False)
    return (
        "{%- set messages = [{'role': 'system', 'content': " + literal + "}]"
        " + (messages | rejectattr('role', 'in', ['system', 'developer']) | list) -%}" + source
    )


def _stored_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    stored = read_json(folder, "tokenizer_config.json").get("chat_template")
    if isinstance(stored, list):  # the older form: named templates
        stored = next((one.get("template") for one in stored if one.get("name") == "default"), None)
    return stored if isinstance(stored, str) else None
