"""The suite spec: which KPIs a candidate must satisfy, how sure the gate must be, and what a run may cost.

A suite is one YAML file. Its digest, with the digests of its data, is what a decision cites.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from evals.kpi import (
    BUILTIN_TASKS,
    Advisory,
    Floor,
    Fraction,
    Kpi,
    MaxRate,
    Noninferior,
    Rule,
    Scale,
    Superior,
    ZeroTolerance,
    wrong,
)
from registry.specs import Spec

__all__ = [
    "BUILTIN_TASKS", "Advisory", "Baseline", "Budgets", "Floor", "Fraction", "GateSpec", "Judge", "Kpi", "MaxRate",
    "Noninferior", "Rule", "Scale", "SuiteSpec", "Superior", "ZeroTolerance",
]  # fmt: skip

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Baseline(Spec):
    """What the candidate is compared with: `ref` the rolling one (an alias), `anchor` the last audited one."""

    ref: str = Field(min_length=1)
    anchor: str | None = None


class GateSpec(Spec):
    """How sure the gate must be. `alpha` is one-sided; `budget: family` splits it over `max_candidates` candidates.

    `group_sequential` looks `looks` times while it measures and stops as soon as it may; `anytime` allows looks at any
    time, appended data included; `whole_suite` asks what the full suite would say; `fixed` looks once, at the end.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    mode: Literal["group_sequential", "anytime", "whole_suite", "fixed"] = "group_sequential"
    looks: Annotated[int, Field(ge=1, le=100)] = 8
    order_seed: Annotated[int, Field(ge=0)] = 0
    budget: Literal["candidate", "family"] = "candidate"
    max_candidates: Annotated[int, Field(ge=1)] | None = None
    contamination: Literal["report", "invalid"] = "invalid"
    """What a sample that the candidate was trained on does: `invalid` makes its KPI INVALID, `report` says so."""

    @model_validator(mode="after")
    def _family_has_a_size(self) -> Self:
        if self.budget == "family" and self.max_candidates is None:
            raise wrong("`budget: family` needs `max_candidates`", "say how many candidates this hold-out may judge")
        return self

    @property
    def level(self) -> float:
        """The one-sided level of one candidate: alpha, or its share under `budget: family`."""
        return self.alpha / self.max_candidates if self.budget == "family" and self.max_candidates else self.alpha


class Judge(Spec):
    """A model that scores answers. It may gate only where its agreement with human labels is shown.

    It is a candidate of this workspace (`candidate`: a version or alias), or an OpenAI-compatible endpoint (`url`).
    """

    candidate: str = ""
    url: str = ""
    model: str = ""
    """The model's name at the endpoint; empty: the one it serves."""
    api_key_env: str = ""
    """The environment variable that holds the endpoint's key."""
    template: str = ""
    """A file with the judge's prompt, relative to the suite file; empty: the built-in one."""
    calibration: str = ""
    """Human-labelled cases (JSONL or Parquet, relative to the suite file): input, answers, label."""
    min_kappa: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Cohen's kappa with the human labels that the lower 95 % bound must reach."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _judge_is_named(self) -> Self:
        if bool(self.candidate) == bool(self.url):
            raise wrong("a judge is a `candidate` or a `url`, one of them", "write `url: http://127.0.0.1:8001/v1`")
        return self


class Budgets(Spec):
    """What one evaluation run may cost; it stops, with everything measured so far kept, before it would cost more."""

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Prompt and completion tokens of all requests, those of judges included."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    judge_calls: Annotated[int, Field(ge=0)] | None = None


class SuiteSpec(Spec):
    """A suite of KPIs. `canary` is a unique string in its data files that curation must refuse to train on."""

    suite: str = Field(pattern=NAME)
    version: Annotated[int, Field(ge=1)]
    canary: str = Field(min_length=16)
    baseline: Baseline | None = None
    gate: GateSpec = GateSpec()
    budgets: Budgets = Budgets()
    judges: dict[str, Judge] = Field(default_factory=dict)
    kpis: tuple[Kpi, ...]

    @field_validator("kpis")
    @classmethod
    def _kpis_are_usable(cls, kpis: tuple[Kpi, ...]) -> tuple[Kpi, ...]:
        if not kpis:
            raise wrong("the suite has no KPIs", "add at least one entry with a gating rule")
        twice = [name for name, count in Counter(kpi.id for kpi in kpis).items() if count > 1]
        if twice:
            raise wrong(f"KPI id `{twice[0]}` appears twice", "give every KPI its own id")
        if not any(kpi.gating for kpi in kpis):
            raise wrong("every KPI is advisory: the suite gates nothing", "give at least one KPI a gating rule")
        return kpis

    @model_validator(mode="after")
    def _judges_are_there(self) -> Self:
        for kpi in self.kpis:
            judge = self.judges.get(kpi.judge)
            if kpi.judge and judge is None:
                raise wrong(f"`{kpi.id}` names the judge `{kpi.judge}`, the suite has none", "add it to `judges`")
            if judge is not None and kpi.gating and not judge.calibration:
                cure = f"give `{kpi.judge}` human-labelled cases in `calibration`, or make the KPI advisory"
                raise wrong(f"`{kpi.id}` gates on a judge that is not calibrated", cure)
        return self

    @property
    def gating(self) -> tuple[Kpi, ...]:
        """The KPIs that can stop a promotion, in the order of the file."""
        return tuple(kpi for kpi in self.kpis if kpi.gating)

    def kpi(self, name: str) -> Kpi | None:
        """Return the KPI of an id, or None."""
        return next((kpi for kpi in self.kpis if kpi.id == name), None)
