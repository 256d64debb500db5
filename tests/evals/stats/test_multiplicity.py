import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.stats.multiplicity import holm


def test_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=20))
def test_adjusted_values_are_larger_bounded_and_in_the_same_order(found):
    adjusted = holm(found)
    assert all(raw <= new <= 1.0 for raw, new in zip(found, adjusted, strict=True))
    order = sorted(range(len(found)), key=found.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
    if found:
        assert min(adjusted) == pytest.approx(min(1.0, len(found) * min(found)))
