"""Min-K %: does a model find a suite's samples less surprising than fresh text of the same kind? Advisory only.

A text's score is the mean log-probability of its k % least likely tokens (Shi et al. 2024, "Detecting Pretraining Data
from Large Language Models"): what was trained on has fewer outliers. Text of another kind or age differs too, so a
difference is a reason to look, and no proof; no verdict rests on it.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.contamination import sample_text
from evals.harness.child import run_child
from evals.instrument import Instrument
from evals.targets import open_weights
from registry.errors import SpecError
from registry.protocols import Progress, silent
from registry.records import Candidate
from registry.workspace import Workspace

K = 0.2
LONGEST = 256
"""Tokens of a text that are read: longer texts would be compared by other means than shorter ones."""
FEWEST = 20
"""Texts on either side, below which nothing is said."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """How familiar the samples of one KPI are, beside fresh text.

    `chance` is the chance that a sample scores above a fresh text (.5: no difference), `low` and `high` its 95 %
    interval (Hanley & McNeil 1982); `samples` and `fresh` are how many of each were scored, `median` and
    `fresh_median` their scores (nats a token).
    """

    kpi: str
    samples: int
    fresh: int
    median: float
    fresh_median: float
    chance: float
    low: float
    high: float

    @property
    def suspect(self) -> bool:
        """Whether the samples are shown to be more familiar than the fresh text."""
        return self.low > 0.5

    def render(self) -> str:
        """Return it as one line."""
        word = "more familiar than fresh text: look closer" if self.suspect else "no sign of having been seen"
        return (
            f"{self.kpi:<20} min-K {self.median:.2f} beside {self.fresh_median:.2f} ({self.samples} samples,"
            f" {self.fresh} fresh): above it {self.chance:.2f} of the time [{self.low:.2f}, {self.high:.2f}], {word}"
        )


def min_k(logprobs: Sequence[float], k: float = K) -> float:
    """Return the mean of the lowest share `k` of a text's token log-probabilities, at least one; NaN for no token."""
    lowest = sorted(logprobs)[: max(1, round(k * len(logprobs)))]
    return statistics.fmean(lowest) if lowest else math.nan


def familiarity(kpi: str, samples: Sequence[float], fresh: Sequence[float]) -> Familiarity:
    """Return how scores of samples compare with those of fresh texts. Raises SpecError for too few of either."""
    ours = sorted(score for score in samples if math.isfinite(score))
    theirs = sorted(score for score in fresh if math.isfinite(score))
    if min(len(ours), len(theirs)) < FEWEST:
        raise SpecError(
            f"`{kpi}`: {len(ours)} samples and {len(theirs)} fresh texts can be scored, {FEWEST} of each are needed",
            hint="give more fresh texts, or longer ones",
        )
    chance = _above(ours, theirs)
    q1, q2 = chance / (2.0 - chance), 2.0 * chance**2 / (1.0 + chance)
    spread = (
        chance * (1.0 - chance)
        + (len(ours) - 1) * (q1 - chance**2)
        + (len(theirs) - 1) * (q2 - chance**2)
    ) / (len(ours) * len(theirs))  # fmt: skip
    half = 1.96 * math.sqrt(max(spread, 0.0))
    return Familiarity(
        kpi, len(ours), len(theirs), statistics.median(ours), statistics.median(theirs), chance,
        max(0.0, chance - half), min(1.0, chance + half),
    )  # fmt: skip


def screen_familiarity(
    ws: Workspace,
    candidate: Candidate,
    instruments: Sequence[Instrument],
    fresh: Sequence[str],
    *,
    k: float = K,
    progress: Progress = silent,
) -> list[Familiarity]:
    """Return how familiar each KPI's samples are to a candidate's weights, beside fresh texts of the same kind.

    KPIs whose samples are not known before they run are left out.

    Raises:
        SpecError: too few texts on either side.
        EngineFailure: the child that loads the weights failed.
        Tampered: the weights differ from their manifest.
    """
    texts = {each.kpi.id: [sample_text(sample) for sample in each.samples] for each in instruments if each.samples}
    scores = token_logprobs(
        ws, candidate, [*fresh, *(text for each in texts.values() for text in each)], progress=progress
    )
    values = [min_k(each, k) for each in scores]
    theirs, rest = values[: len(fresh)], iter(values[len(fresh) :])
    return [familiarity(kpi, [next(rest) for _ in each], theirs) for kpi, each in texts.items()]


def token_logprobs(
    ws: Workspace, candidate: Candidate, texts: Sequence[str], *, progress: Progress = silent
) -> list[list[float]]:
    """Return the log-probability (nats) of each of the first `LONGEST` tokens of each text.

    Raises EngineFailure, Tampered as `screen_familiarity` does.
    """
    with (
        open_weights(ws, candidate) as target,
        tempfile.TemporaryDirectory(dir=ws.work("evals"), prefix="logprobs-") as scratch,
    ):
        out = Path(scratch) / "out.jsonl"
        request = {"folder": str(target.folder), "texts": list(texts), "longest": LONGEST, "out": str(out)}
        for _ in run_child("evals.children.token_logprobs", request, scratch=Path(scratch), progress=progress):
            pass
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _above(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the chance that one of `ours` is above one of `theirs`, ties counted half (Mann & Whitney)."""
    from bisect import bisect_left, bisect_right

    total = sum(bisect_left(theirs, score) + bisect_right(theirs, score) for score in ours)
    return total / (2.0 * len(ours) * len(theirs))
