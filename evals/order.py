"""The order in which a suite's samples are measured: clusters shuffled by a seed, and where the looks fall.

It depends on the seed and on the names of clusters and samples alone: not on files, models or machines.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from evals.samples import Sample


def in_order(samples: Iterable[Sample], seed: int) -> tuple[Sample, ...]:
    """Return the samples with clusters in the order of a keyed hash of their names, each cluster kept together.

    The first k clusters are a random draw of k clusters to whoever does not know the seed: what a look at a part of
    the suite needs. Inside a cluster, samples are sorted by id.
    """
    key = hashlib.blake2b(str(seed).encode(), digest_size=32).digest()
    places: dict[str, tuple[bytes, str]] = {}

    def place(sample: Sample) -> tuple[tuple[bytes, str], str]:
        if sample.cluster not in places:
            name = sample.cluster.encode("utf-8", "surrogatepass")
            places[sample.cluster] = (hashlib.blake2b(name, key=key, digest_size=16).digest(), sample.cluster)
        return places[sample.cluster], sample.id

    return tuple(sorted(samples, key=place))


def look_sizes(samples: Sequence[Sample], looks: int) -> list[int]:
    """Return how many samples each look holds in all: cut at the cluster edge nearest to its share, the last is all.

    There are `looks` numbers, none smaller than the one before; two are equal where clusters are too few or too large
    to tell the looks apart: the later one then has nothing new to say.

    Args:
        samples: in the order of `in_order`.
        looks: how many looks are planned, at least 1.
    """
    edges = list(accumulate(Counter(sample.cluster for sample in samples).values()))
    if not edges:
        return [0] * looks
    total = edges[-1]
    return [_nearest(edges, total * look / looks) for look in range(1, looks)] + [total]


def _nearest(edges: Sequence[int], wanted: float) -> int:
    after = min(bisect_left(edges, wanted), len(edges) - 1)
    near = edges[max(after - 1, 0) : after + 1]
    return min(near, key=lambda edge: (abs(edge - wanted), edge))
