"""What both engines read from a model folder without importing torch: context length, ends of text, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.errors import NotFound, SpecError

DEFAULT_LENGTH = 2048


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
    """Raise NotFound unless the folder holds a config, a tokenizer and safetensors weights."""
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise NotFound(f"`{folder}` has no `{name}`", hint="engines serve Hugging Face folders")
    if not any(folder.glob("*.safetensors")):
        raise NotFound(f"`{folder}` has no safetensors weights", hint="pickled weights are never loaded")


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
