"""One KPI of a suite: how it is measured, on which samples, and the rule that judges it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from evals.harness import HARNESSES
from registry.errors import SpecError, UnknownName
from registry.specs import Spec

BUILTIN_TASKS = ("bits_per_byte", "next_line", "exact_match")
"""Tasks that need no file of their own; run by lm-eval on rows of `data`."""

_BOUNDED_TASKS = {"next_line": (0.0, 1.0), "exact_match": (0.0, 1.0)}
_TASK_DIRECTION = {"bits_per_byte": "lower", "next_line": "higher", "exact_match": "higher"}
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_LM_EVAL_TASK = re.compile(r"^[^@\s]+\.ya?ml(@[^@\s]+)?$")
_INSPECT_TASK = re.compile(r"^[^@\s]+\.py@[A-Za-z_][A-Za-z0-9_]*$")
_DATASET = re.compile(r"^dataset:[^#\s]+#[^#\s]+$")

Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scale = Literal["absolute", "ratio"]


def wrong(message: str, hint: str) -> PydanticCustomError:
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


class Kpi(Spec):
    """One number that matters: how it is measured, on how many samples, and the rule that judges it."""

    id: str = Field(pattern=NAME)
    harness: str
    """`lm-eval`, `inspect`, `judge`, `import`, or the name of a plugin (`hallmark.harness`)."""
    task: str = Field(min_length=1)
    """lm-eval: a built-in task or a task file (`path.yaml` or `path.yaml@task`); inspect: `path.py@name`; judge: what
    is asked for, in words; import: the name and version of the harness that measures."""
    data: str = ""
    """JSONL or Parquet relative to the suite file (`.sealed`: encrypted to the evaluator), or
    `dataset:<name>#<split>`; empty where a task brings its own."""
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
    endpoint: Literal["weights", "guarded", "vllm", "url"] = "weights"
    """What is asked: the weights in process, the guarded endpoint, a bare vLLM server, or any OpenAI-compatible URL."""
    control: Literal["null_model", "planted_violator"] | None = None
    judge: str = ""
    """The entry of the suite's `judges` that scores the answers."""
    sandbox: Literal["none", "local", "docker"] = "none"
    """Where an inspect task may run tools and code; a task that asks for more than this is refused."""
    slices: tuple[str, ...] = ()
    """Fields whose values split the samples into groups that are reported one by one."""
    slice_rule: Annotated[Noninferior | Superior | Floor | MaxRate, Field(discriminator="type")] | None = None
    """Judges every slice; each is then a gating verdict of its own."""
    range: tuple[Finite, Finite] | None = None
    """Values are clipped to it (clips are counted); it makes finite-sample bounds available."""
    rule: Rule

    @field_validator("data")
    @classmethod
    def _data_is_relative(cls, value: str) -> str:
        if value.startswith("dataset:"):
            if not _DATASET.match(value):
                raise wrong(f"`{value}` names no split", "write `dataset:<name>#<split>`")
        elif value.startswith(("/", "~")):
            raise wrong(f"`{value}` is not relative", "give the path relative to the suite file")
        return value

    @field_validator("range")
    @classmethod
    def _range_is_ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise wrong(f"{list(value)} is empty", "write the smaller bound first, for example `[0, 1]`")
        return value

    @field_validator("harness")
    @classmethod
    def _harness_is_known(cls, value: str) -> str:
        if value not in HARNESSES:
            error = UnknownName("harness", value, HARNESSES)
            raise wrong(error.message, error.hint or "")
        return value

    @model_validator(mode="after")
    def _task_fits_harness(self) -> Self:
        match self.harness:
            case "lm-eval":
                self._check_lm_eval()
            case "inspect" if not _INSPECT_TASK.match(self.task):
                raise wrong(f"`{self.task}` is not an inspect task", "write `path.py@name`, relative to the suite file")
            case "judge" if not self.judge or not self.data:
                raise wrong(f"`{self.id}` lacks `judge` or `data`", "name a judge of the suite and the questions")
            case "import" if self.data:
                raise wrong(f"`{self.id}` is imported: it reads no `data`", "give the rows to `hallmark eval import`")
            case _:
                pass
        if self.slice_rule is not None and not self.slices:
            raise wrong("`slice_rule` judges nothing", "name the fields in `slices`")
        if self.sandbox != "none" and self.harness != "inspect":
            raise wrong(f"`{self.harness}` has no sandbox", "leave `sandbox` out")
        return self

    def _check_lm_eval(self) -> None:
        if self.task not in BUILTIN_TASKS:
            if not _LM_EVAL_TASK.match(self.task):
                cure = f"built in: {', '.join(BUILTIN_TASKS)}; or `path.yaml`, relative to the suite file"
                raise wrong(f"lm-eval has no task `{self.task}`", cure)
            return
        if not self.data:
            raise wrong(f"`{self.id}` has no `data`", "name a JSONL or Parquet file or `dataset:<name>#<split>`")
        if self.endpoint == "guarded" and self.task != "exact_match":
            raise wrong(f"`{self.task}` needs log-likelihoods", "use `endpoint: weights`")
        if self.rule.type not in ("max_rate", "zero_tolerance") and self.direction != _TASK_DIRECTION[self.task]:
            better = _TASK_DIRECTION[self.task]
            raise wrong(f"`direction: {self.direction}` is backwards for `{self.task}`", f"{better} is better")

    @model_validator(mode="after")
    def _rule_makes_sense(self) -> Self:
        rule = self.rule
        if self.gating and self.control is None:
            cure = "planted_violator" if isinstance(rule, MaxRate | ZeroTolerance) else "null_model"
            raise wrong(f"gating KPI `{self.id}` has no `control`", f"add `control: {cure}`: it must fail this KPI")
        if isinstance(rule, MaxRate | ZeroTolerance) and (
            self.direction != "lower" or self.range not in (None, (0, 1))
        ):
            raise wrong(f"`{rule.type}` counts bad events", "use `direction: lower`; a value is 0 or 1")
        if isinstance(rule, Noninferior | Superior):
            self._check_size(rule.margin if isinstance(rule, Noninferior) else rule.min_gain, rule.scale)
        low, high = self.bounds or (-math.inf, math.inf)
        if isinstance(rule, Floor) and not low <= rule.value <= high:
            raise wrong(f"floor {rule.value} lies outside [{low}, {high}]", "no candidate could pass or fail it")
        return self

    def _check_size(self, size: float, scale: str) -> None:
        if scale == "ratio" and size >= 1:
            raise wrong(f"a ratio of {size} allows anything", "0.02 means two per cent of the baseline")
        if scale == "absolute" and self.bounds and size >= self.bounds[1] - self.bounds[0]:
            raise wrong(f"{size} is as wide as the whole range", "0.02 means two points on a scale from 0 to 1")

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
