"""A transformers causal model behind two calls: prefill new rows, decode one token in every row."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.engines.adapters import Adapters
from policies.engines.key_values import KeyValues
from registry.errors import EngineFailure, SpecError

logger = logging.getLogger(__name__)
ATTENTION = "hallmark_rows"
PREFILL_TOKENS = 2048
PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> tuple[Any, Any]:
    """Attend with one query per row without copying keys for grouped heads; anything else is transformers' sdpa."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, length, size = query.shape
    if length != 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    # The query heads that share a key head become its queries: [rows, key heads, heads per key head, size].
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling"))
    return out.reshape(rows, 1, heads, -1), None


class LanguageModel:
    """Loads a folder and runs it on a changing set of rows. Not thread safe: one thread owns it.

    Args:
        folder: a Hugging Face folder with safetensors weights.
        dtype: `auto` (bf16 on GPUs and on CPUs with AMX, else fp32), `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, ...
        adapters: LoRA folders by name; a row may use one of them.
    """

    def __init__(
        self, folder: Path, *, dtype: str = "auto", device: str = "auto", adapters: Mapping[str, Path] | None = None
    ) -> None:
        import torch

        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dtype = _dtype(dtype, self.device)
        self._model = _load(folder, self.dtype).to(self.device).eval()
        config = self._model.config.get_text_config()
        self.vocab_size = int(self._model.get_output_embeddings().weight.shape[0])
        self._layer_types = set(getattr(config, "layer_types", None) or ())
        self._window = getattr(config, "sliding_window", None)
        _check_layers(self._model, self._layer_types)
        self._cache = KeyValues(config.num_hidden_layers)
        if self._layer_types:
            self._cache.is_sliding = [kind == "sliding_attention" for kind in config.layer_types]
        self.lengths: list[int] = []
        """Tokens held by each row."""
        self._lanes: list[str] = []
        self._adapters = Adapters(self._model, adapters) if adapters else None
        names = ["", *(adapters or ())]
        self.prefill([[0, 0] for _ in names], names)
        self.bytes_per_token = self._cache.bytes_per_token()
        self.forget()

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str] = ()) -> Any:
        """Add a row per prompt, in order; return the logits after each prompt's last token, [prompts, vocab_size].

        `adapters` names the adapter of each row, empty for the base; without it no row has one.
        """
        import torch

        lanes = list(adapters) or [""] * len(prompts)
        if self._adapters is not None:
            self._adapters.use(lanes)
        longest = max(map(len, prompts))
        # Padding stands on the right: causal attention never looks there, and decoding overwrites it.
        tokens = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=self.device)
        ends = sorted({len(prompt) - 1 for prompt in prompts})
        with torch.inference_mode():
            self._cache.begin_prefill(len(prompts), max(longest, *self.lengths, 0))
            logits = self._model(
                input_ids=tokens,
                position_ids=torch.arange(longest, device=self.device)[None].expand(len(prompts), -1),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=torch.tensor(ends, device=self.device),
            ).logits
            self._cache.end_prefill(len(prompts))
            self.lengths += [len(prompt) for prompt in prompts]
            self._lanes += lanes
            chosen = torch.tensor([ends.index(len(prompt) - 1) for prompt in prompts], device=self.device)
            return logits[torch.arange(len(prompts), device=self.device), chosen]

    def decode(self, tokens: Sequence[int]) -> Any:
        """Append one token to every row; return the logits after it, [rows, vocab_size]."""
        import torch

        if self._adapters is not None:
            self._adapters.use(self._lanes)
        with torch.inference_mode():
            positions = torch.tensor(self.lengths, device=self.device)
            window = self._cache.begin_decode(positions, max(self.lengths) + 1)
            logits = self._model(
                input_ids=torch.tensor(tokens, device=self.device)[:, None],
                attention_mask=self._mask(positions[:, None], window),
                position_ids=positions[:, None],
                past_key_values=self._cache,
                use_cache=True,
            ).logits
            self.lengths = [length + 1 for length in self.lengths]
            return logits[:, -1]

    def drop(self, row: int, *, spoiled: bool = False) -> None:
        """Free a row; the last row takes its number. `spoiled` rows gave logits that are no numbers."""
        import torch

        with torch.inference_mode():
            self._cache.drop(row, spoiled=spoiled)
        last, lane = self.lengths.pop(), self._lanes.pop()
        if row < len(self.lengths):
            self.lengths[row], self._lanes[row] = last, lane

    def forget(self) -> None:
        """Free all rows and their memory."""
        self._cache.wipe()
        self.lengths, self._lanes = [], []

    def _mask(self, positions: Any, window: int) -> Any:
        import torch

        place = torch.arange(window, device=self.device)[None]
        seen = place <= positions

        def additive(visible: Any) -> Any:
            zero = torch.zeros((), dtype=self.dtype, device=self.device)
            return torch.where(visible, zero, float("-inf"))[:, None, None]

        sliding = None
        if self._window is not None and window > self._window:
            sliding = additive(seen & (place > positions - self._window))
        if "sliding_attention" in self._layer_types:
            full = additive(seen)
            return {"full_attention": full, "sliding_attention": full if sliding is None else sliding}
        return additive(seen) if sliding is None or self._layer_types else sliding


def _dtype(name: str, device: Any) -> Any:
    import torch

    if name == "auto":
        amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)
        return torch.bfloat16 if device.type != "cpu" or amx() else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise SpecError(f"unknown dtype `{name}`", field="dtype", hint=f"one of auto, {', '.join(known)}")
    return known[name]


def _load(folder: Path, dtype: Any) -> Any:
    """Load safetensors weights; EngineFailure when one is missing, since it would silently be random."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
    safe = {"trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **safe)
    text = config.get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None) is not None
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True,
        attn_implementation="eager" if capped else ATTENTION, **safe,
    )  # fmt: skip
    wrong = [*found["missing_keys"], *found["mismatched_keys"]]
    if wrong:
        raise EngineFailure(
            f"{len(wrong)} weights are missing or have another shape, first `{wrong[0]}`",
            hint="the folder's config.json and weights do not belong together",
        )
    return model


def _check_layers(model: Any, layer_types: set[str]) -> None:
    """Refuse architectures whose state is not keys and values per token."""
    parameters = inspect.signature(model.forward).parameters
    if layer_types - PLAIN_LAYERS or getattr(model, "_is_stateful", False) or "position_ids" not in parameters:
        raise EngineFailure(
            f"`{type(model).__name__}` is not a plain attention model, which the built-in engine needs",
            hint="serve it with `--engine vllm`",
        )
