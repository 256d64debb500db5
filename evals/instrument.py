"""An instrument: what a KPI is measured with. Two numbers may be compared only if their instruments are equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.harness import HARNESSES
from evals.order import in_order, look_sizes
from evals.samples import Sample
from registry.errors import SpecError
from registry.records import digest_of, sha256

if TYPE_CHECKING:
    from evals.harness.protocol import Harness, Planned
    from evals.kpi import Kpi
    from evals.suite import SuiteSpec
    from registry.workspace import Workspace

LOOKED_AT = ("samples/", "sealed/", "calibration/")
"""Folders of a manifest that decide no score: they repeat the planned samples, or hold a judge's labelled cases."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A KPI with its planned samples and the digest of samples, prompt, scorer and aggregation.

    `samples` stand in the suite's seeded order, clusters kept together; there are none where results are imported.
    `files` are what the suite's manifest keeps for it, path in the suite to bytes; `dataset` is the id of the dataset
    the samples come from, if any; `sealed` says that no text of the samples may be stored in the clear; `judge` is the
    digest of the judge that scores it, if any.
    """

    kpi: Kpi
    samples: tuple[Sample, ...]
    files: dict[str, bytes]
    dataset: str
    digest: str
    sealed: bool = False
    judge: str = ""
    ruler: str = ""
    """The digest of all but the samples: the same ruler on more samples measures the same thing."""

    def sizes(self, looks: int) -> list[int]:
        """Return how many samples each of `looks` looks holds in all; the last holds all of them.

        Imported results have no order that is known here: every look holds all of them.
        """
        return look_sizes(self.samples, looks) if self.samples else [self.kpi.samples] * looks

    @property
    def clusters(self) -> int:
        """How many clusters the whole plan has; 0 where results are imported."""
        return len({sample.cluster for sample in self.samples})

    @property
    def largest(self) -> int:
        """How many samples the largest cluster of the whole plan has; 0 where results are imported."""
        return max(Counter(sample.cluster for sample in self.samples).values(), default=0)


def harness_of(name: str) -> Harness:
    """Return the implementation of a harness."""
    made: Harness = HARNESSES.load(name)()
    return made


def build_instruments(ws: Workspace, spec: SuiteSpec, file: Path) -> list[Instrument]:
    """Return one instrument a KPI of the suite in `file`.

    Raises:
        SpecError: data that is empty, doubled, has fewer samples than planned, or lacks a field.
        NotFound: a data or task file, a dataset, a split or a judge that is not there.
    """
    return [_build(ws, spec, kpi, file) for kpi in spec.kpis]


def _build(ws: Workspace, spec: SuiteSpec, kpi: Kpi, file: Path) -> Instrument:
    harness = harness_of(kpi.harness)
    planned = harness.plan(ws, kpi, file)
    _check(kpi, planned.samples, file)
    judge = ""
    if kpi.judge:
        from evals.judge import judge_of

        judge = judge_of(ws, file, kpi.judge).digest
    ruler = _ruler(kpi, planned, harness.scorer(kpi), judge)
    asked = sorted([sample.id, sample.cluster] for sample in planned.samples)
    digest = digest_of({**ruler, "planned": kpi.samples, "samples": asked})
    samples = in_order(planned.samples, spec.gate.order_seed)
    return Instrument(
        kpi, samples, dict(planned.files), planned.dataset, digest, planned.sealed, judge, digest_of(ruler)
    )


def _check(kpi: Kpi, samples: tuple[Sample, ...], file: Path) -> None:
    """Refuse a plan that is not what the KPI says, whatever harness made it."""
    if not samples and kpi.harness == "import":
        return
    if len(samples) != kpi.samples:
        raise SpecError(
            f"`{kpi.id}` plans {kpi.samples} samples, its data gives {len(samples)}", file=str(file), field="samples",
            hint="plan fewer samples or give it more data",
        )  # fmt: skip
    twice = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise SpecError(
            f"`{kpi.id}` asks sample `{twice[0]}` twice", file=str(file), field="data", hint="keep one of the two"
        )


def _ruler(kpi: Kpi, planned: Planned, scorer: dict[str, Any], judge: str) -> dict[str, Any]:
    """Return what of an instrument is not its samples: task, prompt, scorer, judge and aggregation, as plain data."""
    # The planned samples are named one by one; more human labels for a judge change no score.
    apart = {f"samples/{kpi.id}.jsonl", f"sealed/{Path(kpi.data).name}", f"calibration/{kpi.judge}.json"}
    files = {name: sha256(data) for name, data in planned.files.items() if name not in apart}
    asked = {"judge": judge} if judge else {}
    return {
        "task": kpi.task,
        "metric": kpi.metric,
        "epochs": kpi.epochs,
        "endpoint": kpi.endpoint,
        "files": files,
        "scorer": scorer,
        "aggregation": "ratio" if kpi.task == "bits_per_byte" else "mean",
        **asked,
    }
