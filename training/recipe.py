"""The recipe of a run: twelve fields, all hashed; nothing outside it changes what is trained."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from registry.specs import Spec

Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A closed, frozen part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Part):
    """What is read: a dataset (name, `name:3` or id) and the weight of each of its training splits.

    `replay` is the share of all sequences that comes from `replay_split` of `replay_dataset` (default: the same
    dataset) instead, so that what the base knew is not forgotten.
    """

    dataset: str
    splits: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    replay_split: str = "general_train"
    replay_dataset: str | None = None

    @field_validator("splits")
    @classmethod
    def _never_a_holdout(cls, splits: dict[str, float]) -> dict[str, float]:
        for name in splits:
            if name.endswith("_holdout"):
                raise ValueError(f"`{name}` is held out: nothing may be trained on it")
        return splits

    @model_validator(mode="after")
    def _replay_is_no_holdout(self) -> Data:
        if self.replay_split.endswith("_holdout"):
            raise ValueError(f"`{self.replay_split}` is held out: nothing may be trained on it")
        return self

    def weights(self) -> dict[tuple[str, str], float]:
        """Return (dataset reference, split) to its share of the sequences; shares sum to 1."""
        total = sum(self.splits.values())
        out = {(self.dataset, split): w / total * (1 - self.replay) for split, w in self.splits.items()}
        if self.replay:
            key = (self.replay_dataset or self.dataset, self.replay_split)
            out[key] = out.get(key, 0.0) + self.replay
        return out


class Shape(Part):
    """A Mistral model's shape. `head` is the width of one attention head; embeddings are tied unless `tied` is off."""

    vocab: int = Field(default=2048, ge=300, le=262_144)
    hidden: int = Field(default=128, ge=16)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=2, ge=1)
    kv_heads: int = Field(default=1, ge=1)
    head: int = Field(default=64, ge=8, multiple_of=8)
    intermediate: int = Field(default=384, ge=16)
    tied: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> Shape:
        if self.heads % self.kv_heads:
            raise ValueError("`heads` is not a multiple of `kv_heads`")
        return self


class Budget(Part):
    """How long to train: exactly one of `steps`, `tokens` and `seconds` (a budget of seconds is not reproducible).

    `batch` is sequences a step; every `save_every` steps a checkpoint is written.
    """

    steps: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    batch: int = Field(default=4, ge=1)
    save_every: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _one_of_three(self) -> Budget:
        if sum(value is not None for value in (self.steps, self.tokens, self.seconds)) != 1:
            raise ValueError("give exactly one of `steps`, `tokens` and `seconds`")
        return self

    def total_steps(self, sequence_length: int) -> int | None:
        """Return the number of steps, or None where the clock decides."""
        if self.tokens is not None:
            return math.ceil(self.tokens / (self.batch * sequence_length))
        return self.steps


class Optimiser(Part):
    """`muon` moves the 2-D weights of the blocks by Muon at `lr` and the rest by AdamW at `adamw_lr`.

    `adamw` moves everything at `adamw_lr`. Gradients are clipped to norm `clip` (0: not at all).
    """

    name: Literal["muon", "adamw"] = "muon"
    lr: float = Field(default=0.02, gt=0)
    adamw_lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    clip: float = Field(default=1.0, ge=0)


class Schedule(Part):
    """Warm-up, stable, decay: shares of the budget at the start and end with a rising and a falling learning rate."""

    warmup: Share = 0.05
    decay: Share = 0.4
    floor: Share = 0.0

    def factor(self, done: float) -> float:
        """Return what the learning rate is multiplied by when the share `done` of the budget is spent."""
        if done < self.warmup:
            return max(done / self.warmup, 0.01)
        left = 1 - done
        if left < self.decay:
            return self.floor + (1 - self.floor) * max(left, 0.0) / self.decay
        return 1.0

    @model_validator(mode="after")
    def _fit_together(self) -> Schedule:
        if self.warmup + self.decay > 1:
            raise ValueError("`warmup` and `decay` together exceed the budget")
        return self


class Recipe(Spec):
    """What `hallmark train run` reads.

    `pretrain` starts from random weights and learns its own tokenizer; `continue` and `sft` start from the version
    `base`. `trainer` passes arguments through to TRL's trainer (methods of TRL only). `precision` `auto` is bf16
    autocast where the processor multiplies bf16 matrices itself (AMX, GPUs), else fp32.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    method: Literal["pretrain", "continue", "sft"]
    base: str | None = None
    data: Data
    model: Shape | None = None
    sequence_length: int = Field(default=256, ge=16, le=131_072)
    budget: Budget
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    seed: int = Field(default=0, ge=0, lt=2**31)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    trainer: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fields_fit_method(self) -> Recipe:
        if self.method == "pretrain":
            if self.base is not None:
                raise ValueError("`pretrain` starts from random weights: leave `base` out, or use `continue`")
        elif self.base is None:
            raise ValueError(f"`{self.method}` needs `base`, the version it starts from")
        elif self.model is not None:
            raise ValueError(f"`{self.method}` takes the shape of its base: leave `model` out")
        if self.trainer and self.method != "sft":
            raise ValueError(f"`trainer` passes arguments to TRL; `{self.method}` does not use TRL")
        return self

    @model_validator(mode="after")
    def _fields_fit_trl(self) -> Recipe:
        if self.method == "sft":
            if self.budget.steps is None:
                raise ValueError("`sft` needs `budget.steps`")
            if self.data.replay:
                raise ValueError("`sft` trains on pairs only: leave `data.replay` out")
            if self.optimiser.name != "adamw":
                raise ValueError("`sft` uses TRL's AdamW: say `optimiser: {name: adamw, adamw_lr: ...}`")
        return self

    @property
    def shape(self) -> Shape:
        """The model's shape, for `pretrain`."""
        return self.model or Shape()
