"""Compares two replays of the same canaries: has the model changed, whatever the traffic does?

Where the engine repeated every answer exactly in both replays, any changed answer is a change. Else the answers of a
canary are compared between the replays as within them: a permutation e-value, exact in finite samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from evals.drift.asking import Asked
from evals.drift.canaries import Replay
from evals.drift.detectors import Array, e_bh
from registry.traits import describe, distance, embed

SHARPNESS = (1.0, 4.0)
"""How strongly the bets favour assignments that set the replays apart; averaged."""
EXACT = "none, as long as an unchanged engine repeats itself exactly, as it did in both replays"

Distance = Callable[[Asked, Asked], float]


@lru_cache(maxsize=4096)
def _entropy_of(text: str) -> float:
    return float(describe(text).get("entropy", 0.0))


@lru_cache(maxsize=4096)
def _wording_of(text: str) -> tuple[float, ...]:
    return tuple(embed(text))


def _entropy(asked: Asked) -> float:
    return _entropy_of(asked.text)


def _wording(first: Asked, second: Asked) -> float:
    return distance(_wording_of(first.text), _wording_of(second.text))


DISTANCES: Mapping[str, tuple[str, Distance]] = {
    "text": ("answers to canaries, word by word", lambda a, b: float((a.text, a.refused) != (b.text, b.refused))),
    "length": ("length of answers to canaries", lambda a, b: float(abs(len(a.text) - len(b.text)))),
    "entropy": ("entropy of answers to canaries", lambda a, b: abs(_entropy(a) - _entropy(b))),
    "refusal": ("canaries that a rule refuses", lambda a, b: float(bool(a.refused) != bool(b.refused))),
    "embedding": ("wording of answers to canaries", _wording),
}
"""What is compared: a meaning, and how far two answers lie apart."""


def compare(reference: Replay, current: Replay, alpha: float) -> dict[str, Any]:
    """Return what two replays of the same canaries say about the model.

    Keys: `verdict` (`drift` or `quiet`), `repeatable` (both replays repeated every answer), `changed` (share of
    canaries with an answer that the other replay does not have), `n` canaries, and `signals`, one finding a descriptor
    as in a DriftWindow. An unchanged model is called changed with probability at most alpha, provided that answers to
    one canary are exchangeable, and answers to different ones independent, between the replays.
    """
    pairs = [(reference.answers[name], current.answers[name]) for name in sorted(reference.answers)]
    repeatable = all(len({(asked.text, asked.refused) for asked in side}) == 1 for pair in pairs for side in pair)
    changed = sum({asked.text for asked in first} != {asked.text for asked in second} for first, second in pairs)
    e_values = {name: _permutation_e([_matrix(*pair, measure) for pair in pairs], len(pairs[0][0]))
                for name, (_, measure) in DISTANCES.items()}  # fmt: skip
    flagged = e_bh(e_values, alpha)
    if repeatable:
        flagged = {"text"} | flagged if changed else set()
    findings = [_finding(name, pairs, e_values[name], alpha, name in flagged, repeatable) for name in DISTANCES]
    return {
        "verdict": "drift" if flagged else "quiet",
        "repeatable": repeatable,
        "changed": changed / len(pairs),
        "n": len(pairs),
        "signals": findings,
    }


def _finding(
    name: str, pairs: Sequence[tuple[Sequence[Asked], Sequence[Asked]]], e_value: float, alpha: float, flagged: bool,
    repeatable: bool,
) -> dict[str, Any]:  # fmt: skip
    return {
        "name": f"canary:{name}",
        "meaning": DISTANCES[name][0],
        "reference": _level(name, [asked for first, _ in pairs for asked in first], pairs),
        "current": _level(name, [asked for _, second in pairs for asked in second], pairs),
        "e_value": e_value,
        "e_threshold": len(DISTANCES) / alpha,
        "verdict": "drift" if flagged else "quiet",
        "false_alarm": EXACT if repeatable and name == "text" else f"at most {alpha:.2%} over all canary signals",
    }


def _level(name: str, side: Sequence[Asked], pairs: Sequence[tuple[Sequence[Asked], Sequence[Asked]]]) -> float:
    """Return what a person compares: a mean of one side; for texts and wording, how far it lies from the reference."""
    if name in ("text", "embedding"):
        measure, repeats = DISTANCES[name][1], len(pairs[0][0])
        near = [measure(asked, pairs[place // repeats][0][0]) for place, asked in enumerate(side)]
        return sum(near) / len(near)
    single: Mapping[str, Callable[[Asked], float]] = {
        "length": lambda asked: float(len(asked.text)), "entropy": _entropy,
        "refusal": lambda asked: float(bool(asked.refused)),
    }  # fmt: skip
    return sum(map(single[name], side)) / len(side)


def _matrix(first: Sequence[Asked], second: Sequence[Asked], measure: Distance) -> Array:
    """Return the distances between all answers to one canary, the reference's first."""
    both = [*first, *second]
    found = np.zeros((len(both), len(both)))
    for i, j in itertools.combinations(range(len(both)), 2):
        found[i, j] = found[j, i] = measure(both[i], both[j])
    return found


def _permutation_e(matrices: Sequence[Array], size: int) -> float:
    """Return an e-value against "each canary's answers are exchangeable between the replays".

    For each canary, the energy statistic (mean distance between the replays less that within them) is compared with
    all ways of dividing the same answers into replays; exp(sharpness x statistic) over its mean is an e-value, and the
    product over canaries too. Source: Székely and Rizzo (2013), "Energy statistics"; Vovk and Wang (2021), "E-values".
    """
    logs = [0.0 for _ in SHARPNESS]
    for matrix in matrices:
        statistics = _energies(matrix, size)
        scale = float(np.abs(statistics).max())
        if scale == 0:
            continue
        for place, sharpness in enumerate(SHARPNESS):
            exponents = sharpness * statistics / scale
            logs[place] += float(exponents[0] - np.logaddexp.reduce(exponents) + math.log(len(exponents)))
    return float(np.mean([math.exp(min(log, 600.0)) for log in logs]))


@lru_cache
def _divisions(total: int, size: int) -> Array:
    """Return all ways to choose the reference's answers, one a row of zeros and ones; the true one comes first."""
    found = np.zeros((math.comb(total, size), total))
    for row, chosen in enumerate(itertools.combinations(range(total), size)):
        found[row, list(chosen)] = 1.0
    return found


def _energies(matrix: Array, size: int) -> Array:
    """Return the energy statistic of each division: mean distance between the sides less that within them."""
    total = len(matrix)
    first = _divisions(total, size)
    rest, reached = 1.0 - first, first @ matrix
    between = (reached * rest).sum(axis=1) / (size * (total - size))
    within = (reached * first).sum(axis=1) / max(1, size * (size - 1))
    within += ((rest @ matrix) * rest).sum(axis=1) / max(1, (total - size) * (total - size - 1))
    energies: Array = between - within / 2
    return energies
