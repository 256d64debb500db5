"""Exact statements about a rate from 0/1 events, independent (Clopper & Pearson 1934) or part of a finite suite."""

from __future__ import annotations

import math


def p_at_least(events: int, n: int, rate: float) -> float:
    """Return the p-value of "the rate is at least `rate`": the chance of so few events, or fewer."""
    from scipy import stats

    return float(stats.binom.cdf(events, n, rate))


def p_at_most(events: int, n: int, rate: float) -> float:
    """Return the p-value of "the rate is at most `rate`": the chance of so many events, or more."""
    from scipy import stats

    return float(stats.binom.sf(events - 1, n, rate))


def lower(events: int, n: int, alpha: float) -> float:
    """Return the exact one-sided lower bound of the rate."""
    from scipy import stats

    return 0.0 if events == 0 else float(stats.beta.ppf(alpha, events, n - events + 1))


def upper(events: int, n: int, alpha: float) -> float:
    """Return the exact one-sided upper bound of the rate: 1 - alpha^(1/n) at zero events."""
    from scipy import stats

    return 1.0 if events == n else float(stats.beta.ppf(1.0 - alpha, events + 1, n - events))


def p_finite_at_most(events: int, n: int, population: int, rate: float) -> float:
    """Return the p-value of "at most a share `rate` of the population are events" from n drawn without replacement."""
    from scipy import stats

    marked = math.floor(population * rate + 1e-9)
    if marked < 0 or events > marked:
        return 0.0
    return float(stats.hypergeom.sf(events - 1, population, min(marked, population), n))


def p_finite_at_least(events: int, n: int, population: int, rate: float) -> float:
    """Return the p-value of "at least a share `rate` of the population are events", likewise."""
    from scipy import stats

    marked = math.ceil(population * rate - 1e-9)
    if marked > population or population - n + events < marked:
        return 0.0
    return float(stats.hypergeom.cdf(events, population, max(marked, 0), n))
