"""The suite spec: which KPIs a candidate must satisfy, measured on what, judged by which rule.

A suite is one YAML file. Its digest, with the digests of its data, is what a decision cites.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from registry.errors import SpecError
from registry.specs import Spec

BUILTIN_TASKS = ("bits_per_byte", "next_line", "exact_match")
"""Tasks that need no file; run by lm-eval on rows of `data`."""

_BOUNDED_TASKS = {"next_line": (0.0, 1.0), "exact_match": (0.0, 1.0)}
_TASK_DIRECTION = {"bits_per_byte": "lower", "next_line": "higher", "exact_match": "higher"}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_INSPECT_TASK = re.compile(r"^[^@\s]+\.py@[A-Za-z_][A-Za-z0-9_]*$")
_DATASET = re.compile(r"^dataset:[^#\s]+#[^#\s]+$")

Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scale = Literal["absolute", "ratio"]


def _wrong(message: str, hint: str) -> PydanticCustomError:
    """Return what a validator raises; the spec reader turns its cause into a SpecError with file, line and field."""
    return PydanticCustomError("suite", "{error}", {"error": SpecError(message, hint=hint)})


class Noninferior(Spec):
    """Pass if the candidate is shown to be no more than `margin` worse than the baseline, on the same samples."""

    type: Literal["noninferior"]
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    scale: Scale = "absolute"


class Superior(Spec):
    """Pass if the candidate is shown to be better than the baseline by more than `min_gain`."""

    type: Literal["superior"]
    min_gain: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    scale: Scale = "absolute"


class Floor(Spec):
    """Pass if the candidate alone is shown to reach `value` (a ceiling where lower is better)."""

    type: Literal["floor"]
    value: Finite


class MaxRate(Spec):
    """Pass if the rate of bad events (value 1) is shown to be at most `limit`."""

    type: Literal["max_rate"]
    limit: Fraction


class ZeroTolerance(Spec):
    """Pass if none of the listed cases is hit (value 1); the samples are a census, so there is no sampling error."""

    type: Literal["zero_tolerance"]


class Advisory(Spec):
    """Reported, never gates."""

    type: Literal["advisory"]


Rule = Annotated[Noninferior | Superior | Floor | MaxRate | ZeroTolerance | Advisory, Field(discriminator="type")]


class Baseline(Spec):
    """What the candidate is compared with: `ref` the rolling one (an alias), `anchor` the last audited one."""

    ref: str = Field(min_length=1)
    anchor: str | None = None


class GateSpec(Spec):
    """How sure the gate must be. `alpha` is one-sided; `budget: family` splits it over `max_candidates` candidates."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    mode: Literal["fixed", "whole_suite"] = "fixed"
    order_seed: Annotated[int, Field(ge=0)] = 0
    budget: Literal["candidate", "family"] = "candidate"
    max_candidates: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _family_has_a_size(self) -> Self:
        if self.budget == "family" and self.max_candidates is None:
            raise _wrong("`budget: family` needs `max_candidates`", "say how many candidates this hold-out may judge")
        return self

    @property
    def level(self) -> float:
        """The one-sided level of one candidate: alpha, or its share under `budget: family`."""
        return self.alpha / self.max_candidates if self.budget == "family" and self.max_candidates else self.alpha


class Kpi(Spec):
    """One number that matters: how it is measured, on how many samples, and the rule that judges it."""

    id: str = Field(pattern=_NAME)
    harness: Literal["lm-eval", "inspect"]
    task: str = Field(min_length=1)
    """A built-in task, or `path.py@name` (relative to the suite file) for inspect."""
    data: str = ""
    """A path relative to the suite file, or `dataset:<name>#<split>`; empty where an inspect task brings its own."""
    samples: Annotated[int, Field(ge=1)]
    """How many samples are planned. For `whole_suite` and `zero_tolerance`: how many the full suite holds."""
    metric: str = ""
    """The scorer or metric to read; empty for the task's own."""
    unit: str = ""
    owner: str = ""
    direction: Literal["higher", "lower"]
    """Which way is better."""
    cluster: str = ""
    """The field whose equal values mark samples that belong together; empty: every sample stands alone."""
    epochs: Annotated[int, Field(ge=1)] = 1
    endpoint: Literal["weights", "guarded"] = "weights"
    control: Literal["null_model", "planted_violator"] | None = None
    slices: tuple[str, ...] = ()
    range: tuple[Finite, Finite] | None = None
    """Values are clipped to it (clips are counted); it makes finite-sample bounds available."""
    rule: Rule

    @field_validator("data")
    @classmethod
    def _data_is_relative(cls, value: str) -> str:
        if value.startswith("dataset:"):
            if not _DATASET.match(value):
                raise _wrong(f"`{value}` names no split", "write `dataset:<name>#<split>`")
        elif value.startswith(("/", "~")):
            raise _wrong(f"`{value}` is not relative", "give the path relative to the suite file")
        return value

    @field_validator("range")
    @classmethod
    def _range_is_ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise _wrong(f"{list(value)} is empty", "write the smaller bound first, for example `[0, 1]`")
        return value

    @model_validator(mode="after")
    def _task_fits_harness(self) -> Self:
        if self.harness == "lm-eval":
            if self.task not in BUILTIN_TASKS:
                raise _wrong(f"lm-eval has no task `{self.task}`", f"built in: {', '.join(BUILTIN_TASKS)}")
            if not self.data:
                raise _wrong(f"`{self.id}` has no `data`", "name a JSONL file or `dataset:<name>#<split>`")
            if self.endpoint == "guarded" and self.task != "exact_match":
                raise _wrong(f"`{self.task}` needs log-likelihoods", "use `endpoint: weights`")
            if self.rule.type not in ("max_rate", "zero_tolerance") and self.direction != _TASK_DIRECTION[self.task]:
                better = _TASK_DIRECTION[self.task]
                raise _wrong(f"`direction: {self.direction}` is backwards for `{self.task}`", f"{better} is better")
        elif not _INSPECT_TASK.match(self.task):
            raise _wrong(f"`{self.task}` is not an inspect task", "write `path.py@name`, relative to the suite file")
        return self

    @model_validator(mode="after")
    def _rule_makes_sense(self) -> Self:
        rule = self.rule
        if self.gating and self.control is None:
            cure = "planted_violator" if isinstance(rule, MaxRate | ZeroTolerance) else "null_model"
            raise _wrong(f"gating KPI `{self.id}` has no `control`", f"add `control: {cure}`: it must fail this KPI")
        if isinstance(rule, MaxRate | ZeroTolerance) and (
            self.direction != "lower" or self.range not in (None, (0, 1))
        ):
            raise _wrong(f"`{rule.type}` counts bad events", "use `direction: lower`; a value is 0 or 1")
        if isinstance(rule, Noninferior | Superior):
            self._check_size(rule.margin if isinstance(rule, Noninferior) else rule.min_gain, rule.scale)
        low, high = self.bounds or (-math.inf, math.inf)
        if isinstance(rule, Floor) and not low <= rule.value <= high:
            raise _wrong(f"floor {rule.value} lies outside [{low}, {high}]", "no candidate could pass or fail it")
        return self

    def _check_size(self, size: float, scale: str) -> None:
        if scale == "ratio" and size >= 1:
            raise _wrong(f"a ratio of {size} allows anything", "0.02 means two per cent of the baseline")
        if scale == "absolute" and self.bounds and size >= self.bounds[1] - self.bounds[0]:
            raise _wrong(f"{size} is as wide as the whole range", "0.02 means two points on a scale from 0 to 1")

    @property
    def gating(self) -> bool:
        """Whether this KPI can stop a promotion."""
        return not isinstance(self.rule, Advisory)

    @property
    def needs_baseline(self) -> bool:
        """Whether the rule compares with a baseline."""
        return isinstance(self.rule, Noninferior | Superior)

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is."""
        return 1 if self.direction == "higher" else -1

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range every value lies in: the declared one, else the task's or rule's own, else None (unbounded)."""
        if self.range is not None:
            return self.range
        if isinstance(self.rule, MaxRate | ZeroTolerance):
            return (0.0, 1.0)
        return _BOUNDED_TASKS.get(self.task)


class SuiteSpec(Spec):
    """A suite of KPIs. `canary` is a unique string in its data files that curation must refuse to train on."""

    suite: str = Field(pattern=_NAME)
    version: Annotated[int, Field(ge=1)]
    canary: str = Field(min_length=16)
    baseline: Baseline | None = None
    gate: GateSpec = GateSpec()
    kpis: tuple[Kpi, ...]

    @field_validator("kpis")
    @classmethod
    def _kpis_are_usable(cls, kpis: tuple[Kpi, ...]) -> tuple[Kpi, ...]:
        if not kpis:
            raise _wrong("the suite has no KPIs", "add at least one entry with a gating rule")
        twice = [name for name, count in Counter(kpi.id for kpi in kpis).items() if count > 1]
        if twice:
            raise _wrong(f"KPI id `{twice[0]}` appears twice", "give every KPI its own id")
        if not any(kpi.gating for kpi in kpis):
            raise _wrong("every KPI is advisory: the suite gates nothing", "give at least one KPI a gating rule")
        return kpis

    @property
    def gating(self) -> tuple[Kpi, ...]:
        """The KPIs that can stop a promotion, in the order of the file."""
        return tuple(kpi for kpi in self.kpis if kpi.gating)

    def kpi(self, name: str) -> Kpi | None:
        """Return the KPI of an id, or None."""
        return next((kpi for kpi in self.kpis if kpi.id == name), None)
