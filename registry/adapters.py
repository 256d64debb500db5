"""LoRA adapters as files: what one may hold, whether it fits a base, and the folder that the two make together.

The formula is W' = W + s B A with s = alpha / r, or alpha / sqrt(r) for rank-stabilised ones (Hu et al. 2021,
https://arxiv.org/abs/2106.09685; Kalajdzievski 2023, https://arxiv.org/abs/2312.03732). What is more than that is
refused by name: half an adapter is another model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import NotFound, Refused, SpecError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HARMLESS = (".safetensors", ".json", ".jinja", ".md", ".txt", ".model", "LICENSE", "NOTICE", ".gitattributes")
LARGEST_HEADER = 100_000_000
LARGEST_RANK = 512
_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_NEEDS_NOTHING = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Ways to begin an adapter that leave its base as it is; others (pissa, olora, corda, loftq) change it."""
_MORE_THAN_LORA = (
    "use_dora", "lora_bias", "modules_to_save", "layer_replication", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "trainable_token_indices", "target_parameters", "megatron_config", "auto_map",
)  # fmt: skip

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lora:
    """What `adapter_config.json` says. `transposed`: the base keeps its weights as [in, out] (`fan_in_fan_out`)."""

    folder: Path
    rank: int
    alpha: float
    stabilised: bool = False
    transposed: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @property
    def patterned(self) -> bool:
        """Whether some modules have a rank or a scale of their own."""
        return bool(self.ranks or self.alphas)

    @property
    def largest_rank(self) -> int:
        """Return the largest rank of any module."""
        return max([self.rank, *self.ranks.values()])

    def rank_of(self, module: str) -> int:
        """Return the rank of a module."""
        return int(_matching(self.ranks, module, self.rank))

    def scale(self, module: str) -> float:
        """Return what B A is multiplied by for a module."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.stabilised else alpha / rank


def read(folder: Path) -> Lora:
    """Return what an adapter is, without reading its tensors.

    Raises:
        NotFound: no configuration or weights.
        SpecError: the configuration is none.
        Refused: it holds other than safetensors and texts, asks for code, or is more than plain LoRA.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise NotFound(f"the adapter has no `{name}`", hint="export it with PEFT's `save_pretrained`")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(HARMLESS):
            raise Refused(f"the adapter holds `{path.name}`", hint="an adapter is JSON, safetensors and texts only")
    config = _json(folder / CONFIG)
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise Refused(f"the adapter is of type `{config.get('peft_type')}`, not LORA", hint="merge it into its base")
    for name in _more_than_lora(config):
        raise Refused(f"the adapter uses `{name}`, which is more than plain LoRA", hint="merge it into its base")
    ranks, alphas = _pattern(config, "rank_pattern"), _pattern(config, "alpha_pattern")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    whole = [rank, *ranks.values()]
    if any(type(value) is not int or not 1 <= value <= LARGEST_RANK for value in whole):
        raise SpecError(f"an adapter's rank is a whole number from 1 to {LARGEST_RANK}", file=CONFIG, field="r")
    if any(not _is_number(value) for value in (alpha, *alphas.values())):
        raise SpecError("must be a number", file=CONFIG, field="lora_alpha")
    flags = bool(config.get("use_rslora")), bool(config.get("fan_in_fan_out"))
    return Lora(folder, int(rank or 0), float(alpha or 0), *flags, ranks, alphas)


def check(folder: Path, base: Path) -> Lora:
    """Return what an adapter is, once every tensor in it is known to fit a weight of the base; needs no torch.

    Raises:
        NotFound, SpecError, Refused: as `read`; Refused also for a tensor that is no half of a LoRA pair, whose module
            the base does not have, or whose shape does not fit.
    """
    lora = read(folder)
    weights = {name: shape for file in sorted(base.glob("*.safetensors")) for name, shape in shapes(file).items()}
    for module, sides in modules(shapes(folder / WEIGHTS)).items():
        a, b = sides["A"], sides["B"]
        rank, wanted = lora.rank_of(module), weights.get(f"{module}.weight")
        if wanted is None:
            raise Refused(f"the adapter changes `{module}`, which the base has no weight of", hint="name its own base")
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise Refused(f"the adapter's `{module}` is not of rank {rank}", hint="export it again")
        made = (a[1], b[0]) if lora.transposed else (b[0], a[1])
        if made != wanted:
            raise Refused(
                f"the adapter changes a `{module}` of {_times(made)}, the base has one of {_times(wanted)}",
                hint="name its own base",
            )
    return lora


def modules(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by module what is stored under its A and its B; Refused for any other tensor, or half a pair."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise Refused(f"the adapter holds `{name}`, which is no part of plain LoRA", hint="merge it into its base")
        found.setdefault(match["module"], {})[match["side"]] = value
    halves = [module for module, sides in found.items() if len(sides) != 2]
    if halves or not found:
        raise Refused(
            f"the adapter has half a pair for `{halves[0]}`" if halves else "the adapter changes nothing",
            hint="export it again",
        )
    return found


def merge(base: Path, adapter: Path) -> int:
    """Merge an adapter into a folder of weights in place; return how many weights changed.

    The folder must be the caller's own copy. What changes is computed and stored in float32, so that rounding to the
    base's dtype adds nothing. Raises as `check`; Refused for a weight that is quantised.
    """
    import torch
    from safetensors.torch import load_file, save_file

    lora = check(adapter, base)
    pairs = modules(load_file(adapter / WEIGHTS))
    for file in sorted(base.glob("*.safetensors")):
        mine = {f"{module}.weight": module for module in pairs}.keys() & shapes(file).keys()
        if not mine:
            continue
        tensors = load_file(file)
        for name in mine:
            module = name.removesuffix(".weight")
            weight = tensors[name]
            if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                raise Refused(f"`{module}` of the base is quantised", hint="merge the adapter into the original base")
            change = pairs[module]["B"].float() @ pairs[module]["A"].float()
            change = change.T if lora.transposed else change
            tensors[name] = (weight.float() + lora.scale(module) * change).contiguous()
        fresh = file.with_name(f"{file.name}.merged")
        save_file(tensors, fresh, metadata={"format": "pt"})
        fresh.replace(file)
    return len(pairs)


def shapes(path: Path) -> dict[str, Shape]:
    """Return the shape of every tensor of a safetensors file, from its header; SpecError when that is malformed."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_HEADER, path.stat().st_size):
            raise SpecError("its header is longer than the file", file=path.name)
        text = file.read(length)
    try:
        header = json.loads(text)
        return {name: tuple(map(int, one["shape"])) for name, one in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise SpecError(f"its header is malformed: {type(error).__name__}", file=path.name) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {error}", file=path.name) from None
    if not isinstance(value, dict):
        raise SpecError("not a JSON object", file=path.name)
    return value


def _more_than_lora(config: Mapping[str, Any]) -> list[str]:
    """Return the names of what a configuration asks for beyond plain LoRA."""
    more = [name for name in _MORE_THAN_LORA if config.get(name)]
    if config.get("bias", "none") != "none":
        more.append("bias")
    begun = config.get("init_lora_weights", True)
    if isinstance(begun, str) and begun.lower() not in _NEEDS_NOTHING:
        more.append(f"init_lora_weights={begun}")
    return more


def _pattern(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a table of module names; Refused when one is an expression rather than a name."""
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise SpecError("must be an object", file=CONFIG, field=name)
    for key in found:
        if not _PLAIN.fullmatch(key):
            raise Refused(f"the adapter's `{name}` holds the expression `{key[:80]}`", hint="write module names")
    return found


def _matching(table: Mapping[str, Any], module: str, default: float) -> float:
    """Return the value of the first key that is the module's name or its end, as PEFT chooses; else the default."""
    return next((value for key, value in table.items() if f".{module}".endswith(f".{key}")), default)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))
