"""Cohen's kappa: how far a judge agrees with people beyond chance, with a lower bound."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Z = 1.6448536269514722
"""The standard normal quantile of 0.95: bounds are one-sided."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two raters.

    `kappa` is Cohen's, `lower` its one-sided lower 95 % bound, `error` its large-sample standard error, `agreed` the
    share of equal labels, `confusion` the counts by (label of people, label of the judge).
    """

    kappa: float
    lower: float
    error: float
    agreed: float
    cases: int
    confusion: Mapping[tuple[str, str], int]


def agreement(people: Sequence[str], judge: Sequence[str]) -> Agreement:
    """Return the agreement of a judge with people on the same cases.

    The lower bound is the smaller of two. One is the large-sample bound with the standard error of Fleiss, Cohen and
    Everitt (Psychological Bulletin 72, 1969, equation 14), which is zero, and so no bound at all, where the raters
    agree on every case. The other takes the exact (Clopper-Pearson) lower bound of the share of equal labels at the
    observed chance agreement; it stays honest with few cases or full agreement.

    Args:
        people: the label of each case; at least two different ones.
        judge: the judge's label of each case.

    Raises ValueError: no cases, unequal lengths, or chance agreement 1 (both always say the same one label).
    """
    cases = len(people)
    if not cases or cases != len(judge):
        raise ValueError("both raters must label the same cases, at least one")
    confusion = Counter(zip(people, judge, strict=True))
    labels = sorted({*people, *judge})
    rows = {label: sum(confusion[label, other] for other in labels) / cases for label in labels}
    columns = {label: sum(confusion[other, label] for other in labels) / cases for label in labels}
    agreed = sum(confusion[label, label] for label in labels) / cases
    chance = sum(rows[label] * columns[label] for label in labels)
    if chance >= 1:
        raise ValueError("both raters always give the same one label: agreement says nothing")
    kappa = (agreed - chance) / (1 - chance)
    error = _standard_error(confusion, labels, rows, columns, kappa, chance, cases)
    exact = (_lower_share(round(agreed * cases), cases) - chance) / (1 - chance)
    return Agreement(kappa, max(-1.0, min(kappa - Z * error, exact)), error, agreed, cases, dict(confusion))


def _standard_error(
    confusion: Mapping[tuple[str, str], int], labels: Sequence[str], rows: Mapping[str, float],
    columns: Mapping[str, float], kappa: float, chance: float, cases: int,
) -> float:  # fmt: skip
    """Return the large-sample standard error of kappa (Fleiss, Cohen and Everitt 1969, equation 14)."""
    total = 0.0
    for row in labels:
        for column in labels:
            share = confusion.get((row, column), 0) / cases
            if row == column:
                total += share * (1 - (rows[row] + columns[row]) * (1 - kappa)) ** 2
            else:
                total += share * (1 - kappa) ** 2 * (columns[row] + rows[column]) ** 2
    total -= (kappa - chance * (1 - kappa)) ** 2
    return math.sqrt(max(0.0, total) / cases) / (1 - chance)


def _lower_share(hits: int, cases: int) -> float:
    """Return the exact one-sided lower 95 % bound of a share (Clopper and Pearson)."""
    from scipy.stats import beta

    return 0.0 if hits == 0 else float(beta.ppf(ALPHA, hits, cases - hits + 1))
