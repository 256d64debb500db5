"""The seeded order: laws that must hold for every set of samples, seed and number of looks."""

from collections import Counter
from itertools import groupby, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from evals.order import in_order, look_sizes
from evals.samples import make_sample

SAMPLES = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 12)), min_size=1, max_size=60, unique_by=lambda pair: pair[0]
).map(lambda pairs: [make_sample(f"q{number}", cluster=f"c{cluster}") for number, cluster in pairs])
SEEDS = st.integers(0, 2**40)


@settings(max_examples=60, deadline=None)
@given(samples=SAMPLES, seed=SEEDS, shuffle=st.randoms())
def test_the_order_depends_on_the_seed_and_not_on_the_file(samples, seed, shuffle):
    mixed = list(samples)
    shuffle.shuffle(mixed)
    found = in_order(samples, seed)
    assert found == in_order(mixed, seed)
    assert Counter(found) == Counter(samples)


@settings(max_examples=60, deadline=None)
@given(samples=SAMPLES, seed=SEEDS)
def test_a_cluster_stays_together_and_sorted(samples, seed):
    found = in_order(samples, seed)
    blocks = [(name, list(block)) for name, block in groupby(found, key=lambda sample: sample.cluster)]
    assert len({name for name, _ in blocks}) == len(blocks)
    assert all([sample.id for sample in block] == sorted(sample.id for sample in block) for _, block in blocks)


@settings(max_examples=60, deadline=None)
@given(samples=SAMPLES, seed=SEEDS, dropped=st.integers(0, 59))
def test_taking_samples_away_leaves_the_clusters_in_their_order(samples, seed, dropped):
    kept = in_order([sample for n, sample in enumerate(samples) if n != dropped % len(samples)], seed)
    left = {sample.cluster for sample in kept}
    before = [name for name, _ in groupby(in_order(samples, seed), key=lambda sample: sample.cluster) if name in left]
    assert [name for name, _ in groupby(kept, key=lambda sample: sample.cluster)] == before


@settings(max_examples=80, deadline=None)
@given(samples=SAMPLES, seed=SEEDS, looks=st.integers(1, 20))
def test_looks_grow_end_at_cluster_edges_and_hold_all_at_last(samples, seed, looks):
    ordered = in_order(samples, seed)
    sizes = look_sizes(ordered, looks)
    assert len(sizes) == looks
    assert sizes[-1] == len(ordered)
    assert all(first <= second for first, second in pairwise(sizes))
    assert sizes[0] > 0
    for size in sizes:
        assert size == len(ordered) or ordered[size - 1].cluster != ordered[size].cluster


@settings(max_examples=60, deadline=None)
@given(samples=SAMPLES, seed=SEEDS, looks=st.integers(1, 20))
def test_a_look_is_off_its_share_by_at_most_half_a_cluster(samples, seed, looks):
    ordered = in_order(samples, seed)
    largest = max(Counter(sample.cluster for sample in samples).values())
    for number, size in enumerate(look_sizes(ordered, looks), start=1):
        off = abs(size - len(ordered) * number / looks)
        assert off <= largest / 2 or size == sum(1 for s in ordered if s.cluster == ordered[0].cluster)


def test_another_seed_is_another_order_and_every_cluster_comes_first_about_equally_often():
    samples = [make_sample(f"q{n}", cluster=f"c{n % 8}") for n in range(16)]
    first = Counter(in_order(samples, seed)[0].cluster for seed in range(4000))
    assert len(first) == 8
    # Chi-square with 7 degrees of freedom: beyond 29.9 with probability 1e-4.
    assert sum((count - 500) ** 2 / 500 for count in first.values()) < 29.9


def test_no_samples_have_looks_of_nothing():
    assert look_sizes((), 3) == [0, 0, 0]
