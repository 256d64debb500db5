"""A KPI's judge on its way from the suite file to a session: its files, its labelled cases, and how it stands."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.judge import Case, JudgeSpec, Mode, calibration_digest, cases_of, judge_of, judgement, label_of
from evals.kappa import Agreement, agreement
from evals.kpi import Kpi
from evals.loaders import SEALED, load_rows
from evals.results import Judgement
from evals.samples import Row
from evals.targets import EndpointTarget
from registry.errors import EngineFailure, SpecError
from registry.records import canonical, digest_of
from registry.workspace import Workspace


def judge_files(ws: Workspace, kpi: Kpi, suite: Path) -> dict[str, bytes]:
    """Return what a suite's manifest keeps of a KPI's judge, path to bytes; nothing where it has none.

    `judges/<name>.json` is who judges and how: it is part of the instrument. `calibration/<name>.json` holds the
    labelled cases and the limits: it is not, as more labels change no score.

    Raises: as `evals.judge.judge_of` and `evals.judge.cases_of` do.
    """
    if not kpi.judge:
        return {}
    judge = judge_of(ws, suite, kpi.judge)
    if judge.calibration.endswith(SEALED):
        raise SpecError("labelled cases cannot be sealed", field="calibration", hint="they hold none of the samples")
    cases: list[Case] = []
    if judge.calibration:
        found = load_rows(ws, kpi.model_copy(update={"data": judge.calibration}), suite)
        cases = cases_of(found.rows, found.place)
    limits = {"min_kappa": judge.min_kappa, "timeout_s": judge.timeout_s, "cases": [case.plain() for case in cases]}
    return {
        f"judges/{judge.name}.json": canonical({"identity": judge.identity, "template": judge.template}),
        f"calibration/{judge.name}.json": canonical(limits),
    }


@dataclass(frozen=True, slots=True)
class SeatedJudge:
    """A judge with its endpoint and its labelled cases, as a verified suite holds them."""

    spec: JudgeSpec
    target: EndpointTarget
    cases: tuple[dict[str, Any], ...]

    def plain(self) -> dict[str, Any]:
        """Return what a child needs to ask it; it holds a key."""
        return {**self.spec.plain(), "digest": self.spec.digest, "target": self.target.plain()}


def seat(kpi: Kpi, suite: Path, judges: Mapping[str, EndpointTarget]) -> SeatedJudge | None:
    """Return the judge of a KPI, None where it has none. Raises EngineFailure: nothing serves the judge."""
    if not kpi.judge:
        return None
    if kpi.judge not in judges:
        raise EngineFailure(f"`{kpi.id}` needs the judge `{kpi.judge}`, and nothing serves it",
                            hint="`hallmark eval run` starts it; or name a `url` that answers")  # fmt: skip
    who = json.loads((suite / "judges" / f"{kpi.judge}.json").read_bytes())
    limits = json.loads((suite / "calibration" / f"{kpi.judge}.json").read_bytes())
    spec = JudgeSpec(kpi.judge, who["identity"], who["template"], limits["timeout_s"], limits["min_kappa"], "")
    return SeatedJudge(spec, judges[kpi.judge], tuple(limits["cases"]))


def scorer_digest(scorer: Mapping[str, Any], judge: SeatedJudge | None) -> str:
    """Return what each row names as its scorer: our code and package, and the judge."""
    return digest_of({**scorer, "judge": judge.spec.digest if judge else ""})


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a judge said of the labelled cases: the agreement with people, and whether swapped orders agreed."""

    agreement: Agreement
    swaps: tuple[bool, ...]


class Calibrations:
    """Calibrations that were made before, one small file each; the key names judge, cases and what asks them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def key(judge: SeatedJudge, more: Mapping[str, Any]) -> str:
        """Return the key of a judge's calibration. `more` is whatever else decides its verdicts."""
        return calibration_digest(canonical(list(judge.cases)), {"judge": judge.spec.digest, **more})

    def get(self, key: str) -> Calibration | None:
        """Return a kept calibration, or None."""
        try:
            kept = json.loads(self._path(key).read_bytes())
            confusion = {(people, said): count for people, said, count in kept["agreement"].pop("confusion")}
            return Calibration(Agreement(**kept["agreement"], confusion=confusion), tuple(kept["swaps"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, found: Calibration) -> None:
        """Keep a calibration."""
        self._folder.mkdir(parents=True, exist_ok=True)
        confusion = [[*pair, count] for pair, count in found.agreement.confusion.items()]
        kept = {"agreement": {**asdict(found.agreement), "confusion": confusion}, "swaps": list(found.swaps)}
        part = self._folder / f".{secrets.token_hex(8)}"
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('sha256:')}.json"


def calibrate(judge: SeatedJudge, values: Sequence[float | None], swaps: Sequence[bool], mode: Mode) -> Calibration:
    """Return a judge's calibration from what its verdicts on the labelled cases were worth.

    A case without a verdict counts as disagreement. Raises EngineFailure where no agreement can be computed.
    """
    people = [case["label"] for case in judge.cases]
    said = [label_of(case["kind"], value, mode) for case, value in zip(judge.cases, values, strict=True)]
    try:
        return Calibration(agreement(people, said), tuple(swaps))
    except ValueError as error:
        raise EngineFailure(f"judge `{judge.spec.name}`: {error}", hint="give it more labelled cases") from None


class Standing:
    """How a judge stands after the rows of a KPI so far."""

    def __init__(self, judge: SeatedJudge, calibration: Calibration | None) -> None:
        self._judge, self._calibration = judge, calibration
        self._swaps: list[bool] = []
        self._scored: list[tuple[float, int]] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Take in rows; `orders` in a detail is what the verdicts in both orders were worth, where there are two."""
        for row in rows:
            if row.error:
                continue
            shown = json.loads(row.detail)
            orders = shown.get("orders")
            if orders:
                self._swaps.append(len(set(orders)) == 1)
            self._scored.append((row.value, int(shown.get("length") or len(row.output))))

    def judgement(self) -> Judgement:
        """Return it as the EvalRun keeps it."""
        known = self._calibration
        swaps = self._swaps or list(known.swaps if known else ())
        return judgement(self._judge.spec, known.agreement if known else None, swaps, self._scored)
