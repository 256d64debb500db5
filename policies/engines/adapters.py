"""LoRA adapters side by side on one model: every row of a batch takes the adapter that its request names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry import adapters
from registry.errors import EngineFailure, Refused

APART = "serve it with `--engine vllm`, or merge the adapter"


@dataclass(slots=True)
class _Layer:
    """What one linear layer adds, by adapter: the transposed A and the transposed, scaled B."""

    pairs: dict[str, tuple[Any, Any]] = field(default_factory=dict)


class Adapters:
    """Adds s B (A x) to the output of the layers that an adapter changes, for the rows that use it.

    Set `rows` before the model runs: the adapter of each row, empty for the base. Rows never see one another's.
    """

    def __init__(self, model: Any, folders: Mapping[str, Path]) -> None:
        self._layers: dict[str, _Layer] = {}
        self._groups: dict[str, Any] = {}
        self._rows = 0
        self._device = model.device
        for name, folder in folders.items():
            self._load(model, name, folder)
        for module, layer in self._layers.items():
            model.get_submodule(module).register_forward_hook(self._hook(layer))

    def use(self, rows: Sequence[str]) -> None:
        """Say which adapter each row of the next batch has."""
        import torch

        self._rows = len(rows)
        names = set(rows)
        if names == {rows[0]}:  # one for all: no rows to pick out
            self._groups = {rows[0]: None} if rows[0] else {}
            return
        self._groups = {
            name: torch.tensor([row for row, one in enumerate(rows) if one == name], device=self._device)
            for name in names
            if name
        }

    def _load(self, model: Any, name: str, folder: Path) -> None:
        from safetensors.torch import load_file

        lora = adapters.read(folder)
        for module, sides in adapters.modules(load_file(folder / adapters.WEIGHTS)).items():
            try:
                weight = model.get_submodule(module).weight
            except AttributeError:
                raise Refused(
                    f"adapter `{name}` changes `{module}`, which the model does not keep as a layer of its own",
                    hint="serve it with `--engine vllm`",
                ) from None
            first = sides["A"].to(weight.device, weight.dtype).T.contiguous()
            second = (sides["B"].float().T * lora.scale(module)).to(weight.device, weight.dtype).contiguous()
            self._layers.setdefault(module, _Layer()).pairs[name] = (first, second)

    def _hook(self, layer: _Layer) -> Any:
        def add(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            for name, rows in self._groups.items():
                pair = layer.pairs.get(name)
                if rows is not None and (inputs[0].dim() != 3 or inputs[0].shape[0] != self._rows):
                    raise EngineFailure("a layer that an adapter changes does not see rows apart", hint=APART)
                if pair is None:
                    continue
                if rows is None:
                    output = output + inputs[0] @ pair[0] @ pair[1]
                else:
                    output = output.index_add(0, rows, inputs[0][rows] @ pair[0] @ pair[1])
            return output

        return add
