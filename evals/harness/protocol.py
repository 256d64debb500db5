"""What a harness is: it plans a KPI's samples, and measures some of them on a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from evals.results import Judgement
from evals.samples import Row, Sample
from registry.protocols import Progress

if TYPE_CHECKING:
    from evals.instrument import Instrument
    from evals.kpi import Kpi
    from evals.targets import EndpointTarget, WeightsTarget
    from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Planned:
    """What a harness will ask for one KPI.

    `samples` are all planned samples, each with its id and cluster; `files` is what the suite's manifest keeps for the
    KPI, path in the suite to bytes; `dataset` is the id of the dataset the samples come from, if any; `sealed` says
    that the samples are encrypted and no text of theirs may be stored in the clear.
    """

    samples: tuple[Sample, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    dataset: str = ""
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One KPI to measure now: `ids` are the samples that are due and not yet measured, in the suite's seeded order."""

    instrument: Instrument
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a harness works: one target, and what stays the same for all its tasks.

    `suite` is a verified copy of the suite's manifest (exactly what was hashed runs); `answers` a folder where answers
    are kept by model, settings and request until the rows are stored, so that nothing is asked twice after a crash;
    `scratch` a folder for logs and caches that is removed afterwards; `judges` the endpoint of each judge by name;
    `spend` is told (tokens, judge calls) as they are used, answers that were kept from before left out, and raises
    BudgetSpent where they are more than the suite allows.
    """

    target: WeightsTarget | EndpointTarget
    suite: Path
    answers: Path
    scratch: Path
    progress: Progress
    judges: Mapping[str, EndpointTarget] = field(default_factory=dict)
    spend: Callable[[int, int], None] = lambda tokens, judge_calls: None


class Session(Protocol):
    """A harness at work on one bench; what is costly to load (a model, a library) is loaded once for all its looks."""

    def measure(self, tasks: Sequence[Task]) -> Iterator[tuple[str, list[Row]]]:
        """Yield (KPI id, complete rows of its task) as each task is finished; one row a sample and epoch.

        Raises:
            EngineFailure: the harness crashed or gave other samples than were due; what was yielded before stays good.
            BudgetSpent: a budget is used up; what was yielded before stays good.
        """

    def close(self) -> None:
        """End its processes."""


@runtime_checkable
class Judging(Protocol):
    """What a session has besides where judges score its answers."""

    def judgement(self, kpi: str) -> Judgement | None:
        """Return how the judge of a KPI stands; asked after the KPI's rows were yielded."""


class Harness(Protocol):
    """One way to measure. Everything heavy runs in child processes."""

    def plan(self, ws: Workspace, kpi: Kpi, suite: Path) -> Planned:
        """Return a KPI's planned samples and files.

        Args:
            ws: the workspace.
            kpi: the KPI.
            suite: the suite's YAML file; paths in the KPI are relative to its folder.

        Raises:
            SpecError: data that is empty, has fewer samples than planned, doubles one or lacks a field.
            NotFound: a file, dataset or split that is not there.
        """

    def scorer(self, kpi: Kpi) -> dict[str, Any]:
        """Return what turns answers into numbers: package version and digests of code and judge, as plain data."""

    def open(self, bench: Bench) -> Session:
        """Return a session; nothing costly needs to have started when it returns."""
