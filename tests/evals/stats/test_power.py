import pytest

from evals.stats import power


def test_textbook_sample_size():
    # (1.645 + 0.842)^2 x 0.1 / 0.02^2
    assert power.samples_needed(0.02, 0.1, 0.05, 0.8) == 1546
    assert power.samples_needed(0.0, 0.1, 0.05, 0.8) is None
    assert power.samples_needed(1e-9, 0.1, 0.05, 0.8) is None
    assert power.power_at(1546, 0.02, 0.1, 0.05) == pytest.approx(0.8, abs=1e-3)


def test_ties():
    assert [power.ties_needed(m, 0.05) for m in (0.02, 0.05, 0.001, 1.0)] == [149, 59, 2995, 1]


def test_power_without_variance_is_certain():
    assert power.power_at(10, 0.1, 0.0, 0.05) == 1.0
    assert power.power_at(10, -0.1, 0.0, 0.05) == 0.0


def test_the_detectable_distance_never_beats_ties():
    assert power.detectable(149, 0.0, 0.05, 0.8) == pytest.approx(0.0199, abs=1e-4)
    assert power.detectable(1546, 0.1, 0.05, 0.8) == pytest.approx(0.02, abs=1e-5)


def test_design_effect():
    assert power.design_effect(5, 0.5) == 3.0
    assert power.design_effect(1, 0.9) == 1.0


def test_rates_are_planned_exactly():
    needed = power.rate_samples_needed(0.01, 0.05, 0.05, 0.8)
    assert power.rate_power(needed, 0.01, 0.05, 0.05) >= 0.8
    assert power.rate_samples_needed(0.0, 0.05, 0.05, 0.8) == 59
    assert power.rate_power(58, 0.0, 0.05, 0.05) == 0.0
    assert power.rate_samples_needed(0.05, 0.05, 0.05, 0.8) is None
    assert power.rate_samples_needed(0.04999999, 0.05, 0.05, 0.8) is None
