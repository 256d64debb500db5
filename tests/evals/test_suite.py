import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.suite import GateSpec, SuiteSpec
from registry.errors import SpecError
from registry.specs import dump, parse
from tests.evals.gate_cases import kpi, suite


def text(*kpis, **fields):
    return yaml.safe_dump({"suite": "s", "version": 1, "canary": "c" * 16, "kpis": list(kpis), **fields})


def changed(**fields):
    entry = {**kpi(), **fields}
    return {name: value for name, value in entry.items() if value != "absent"}


sizes = st.floats(1e-4, 0.9, allow_nan=False)
rules = st.one_of(
    st.builds(
        lambda m, s: {"type": "noninferior", "margin": m, "scale": s}, sizes, st.sampled_from(["absolute", "ratio"])
    ),
    st.builds(lambda g: {"type": "superior", "min_gain": g}, sizes),
    st.builds(lambda f: {"type": "floor", "value": f}, sizes),
    st.builds(lambda r: {"type": "max_rate", "limit": r}, sizes),
    st.just({"type": "zero_tolerance"}),
)
gates = st.builds(
    lambda alpha, mode, family: {"alpha": alpha, "mode": mode, **family},
    st.floats(0.001, 0.4),
    st.sampled_from(["group_sequential", "anytime", "whole_suite", "fixed"]),
    st.sampled_from([{}, {"budget": "family", "max_candidates": 7}]),
)


@settings(max_examples=40, deadline=None)
@given(
    rule=rules, gate=gates, samples=st.integers(1, 10**6), epochs=st.integers(1, 9),
    cluster=st.text("abc_", max_size=5), baseline=st.none() | st.just({"ref": "prod", "anchor": "audited"}),
)  # fmt: skip
def test_spec_to_yaml_to_spec_is_identity(rule, gate, samples, epochs, cluster, baseline):
    spec = suite(
        kpi(rule=rule, samples=samples, epochs=epochs, cluster=cluster, slices=["a", "b"]),
        kpi("other", rule={"type": "advisory"}, control=None, range=[0, 2]),
        gate=gate, baseline=baseline,
    )  # fmt: skip
    again = parse(dump(spec), SuiteSpec)
    assert again == spec
    assert again.digest == spec.digest


@pytest.mark.parametrize(
    ("entry", "field", "word"),
    [
        (changed(control=None), "kpis.0", "no `control`"),
        (changed(rule={"type": "noninferior", "margin": -0.1}), "margin", "greater than 0"),
        (changed(rule={"type": "noninferior", "margin": float("nan")}), "margin", "finite"),
        (changed(rule={"type": "noninferior", "margin": 1.0}), "kpis.0", "as wide as"),
        (changed(rule={"type": "noninferior", "margin": 1.5, "scale": "ratio"}), "kpis.0", "allows anything"),
        (changed(rule={"type": "superior", "min_gain": 2.0}), "kpis.0", "as wide as"),
        (changed(rule={"type": "floor", "value": 1.5}), "kpis.0", "outside"),
        (changed(rule={"type": "max_rate", "limit": 0.0}), "limit", "greater than 0"),
        (changed(rule={"type": "max_rate", "limit": 0.1}), "kpis.0", "counts bad events"),
        (changed(rule={"type": "maximum"}), "rule", "tag"),
        (changed(samples=0), "samples", "greater than or equal to 1"),
        (changed(epochs=0), "epochs", "greater than or equal to 1"),
        (changed(samples="many"), "samples", "integer"),
        (changed(range=[1, 0]), "range", "empty"),
        (changed(data="/etc/passwd"), "data", "not relative"),
        (changed(data="dataset:code"), "data", "no split"),
        (changed(data=""), "kpis.0", "no `data`"),
        (changed(task="mmlu"), "kpis.0", "no task"),
        (changed(task="bits_per_byte"), "kpis.0", "backwards"),
        (changed(task="next_line", endpoint="guarded"), "kpis.0", "log-likelihoods"),
        (changed(harness="inspect"), "kpis.0", "not an inspect task"),
        (changed(harness="inspct"), "harness", "unknown harness `inspct`"),
        (changed(task="tasks/mmlu.yml@a b"), "kpis.0", "no task"),
        (changed(harness="judge", task="helpful?"), "kpis.0", "lacks `judge` or `data`"),
        (changed(harness="judge", task="helpful?", judge="strict", data=""), "kpis.0", "lacks `judge` or `data`"),
        (changed(harness="import", task="other 1"), "kpis.0", "reads no `data`"),
        (changed(endpoint="remote"), "endpoint", "weights"),
        (changed(sandbox="docker"), "kpis.0", "no sandbox"),
        (changed(sandbox="vm"), "sandbox", "none"),
        (changed(slice_rule={"type": "floor", "value": 0.5}), "kpis.0", "judges nothing"),
        (changed(slices=["team"], slice_rule={"type": "advisory"}), "slice_rule", "tag"),
        (changed(direction="absent"), "direction", "missing"),
        (changed(id="no spaces"), "id", "pattern"),
    ],
)
def test_nonsense_is_refused_with_field_and_hint(entry, field, word):
    with pytest.raises(SpecError) as caught:
        parse(text(entry), SuiteSpec, file="suite.yaml")
    assert field in (caught.value.field or "")
    assert word in caught.value.message
    assert caught.value.hint
    assert caught.value.message.startswith("suite.yaml:")


@pytest.mark.parametrize(
    ("kpis", "fields", "word"),
    [
        ([], {}, "no KPIs"),
        ([kpi(), kpi()], {}, "appears twice"),
        ([kpi(rule={"type": "advisory"}, control=None)], {}, "gates nothing"),
        ([kpi()], {"canary": "short"}, "16"),
        ([kpi()], {"gate": {"alpha": 0.7}}, "less than"),
        ([kpi()], {"gate": {"budget": "family"}}, "max_candidates"),
        ([kpi()], {"gate": {"mode": "peek"}}, "fixed"),
        ([kpi()], {"baseline": {"ref": ""}}, "1 character"),
    ],
)
def test_an_unusable_suite_is_refused(kpis, fields, word):
    with pytest.raises(SpecError, match=word) as caught:
        parse(text(*kpis, **fields), SuiteSpec)
    assert caught.value.hint


JUDGE = {"url": "http://127.0.0.1:8001/v1", "calibration": "labels.jsonl"}
JUDGED = kpi(harness="judge", task="is it polite?", data="q.jsonl", judge="strict")


@pytest.mark.parametrize(
    ("kpis", "fields", "word"),
    [
        ([JUDGED], {}, "the suite has none"),
        ([JUDGED], {"judges": {"strict": {"url": "http://127.0.0.1:1/v1"}}}, "not calibrated"),
        ([JUDGED], {"judges": {"strict": {**JUDGE, "candidate": "prod"}}}, "one of them"),
        ([JUDGED], {"judges": {"strict": {"calibration": "labels.jsonl"}}}, "one of them"),
        ([JUDGED], {"judges": {"strict": {**JUDGE, "min_kappa": 1.5}}}, "less than 1"),
        ([kpi()], {"budgets": {"tokens": 0}}, "greater than or equal to 1"),
        ([kpi()], {"budgets": {"judge_calls": -1}}, "greater than or equal to 0"),
        ([kpi()], {"budgets": {"dollars": 1}}, "dollars"),
        ([kpi()], {"gate": {"looks": 0}}, "greater than or equal to 1"),
        ([kpi()], {"gate": {"order_seed": -1}}, "greater than or equal to 0"),
        ([kpi()], {"gate": {"contamination": "ignore"}}, "report"),
    ],
)
def test_judges_budgets_and_looks_are_checked(kpis, fields, word):
    with pytest.raises(SpecError, match=word) as caught:
        parse(text(*kpis, **fields), SuiteSpec)
    assert caught.value.hint


def test_judges_budgets_targets_and_slices_are_read():
    spec = parse(
        text(
            JUDGED,
            kpi("outside", endpoint="url", slices=["team"], slice_rule={"type": "floor", "value": 0.5}),
            kpi("engine", endpoint="vllm", task="tasks/mmlu.yaml@mmlu", data=""),
            kpi("agent", harness="inspect", task="agent.py@refund", sandbox="docker", endpoint="guarded"),
            kpi("theirs", harness="import", task="helm 0.5", data=""),
            judges={"strict": JUDGE}, budgets={"tokens": 10, "minutes": 0.5, "judge_calls": 0},
        ),
        SuiteSpec,
    )  # fmt: skip
    assert spec.judges["strict"].min_kappa == 0.4
    assert (spec.budgets.tokens, spec.budgets.minutes, spec.budgets.judge_calls) == (10, 0.5, 0)
    assert (spec.gate.mode, spec.gate.looks) == ("group_sequential", 8)
    assert spec.kpi("outside").slice_rule.value == 0.5


def test_an_advisory_kpi_may_have_an_uncalibrated_judge():
    advisory = {**JUDGED, "id": "polite", "rule": {"type": "advisory"}, "control": None}
    spec = parse(text(kpi(), advisory, judges={"strict": {"candidate": "prod"}}), SuiteSpec)
    assert spec.judges["strict"].calibration == ""


def test_a_family_budget_splits_alpha():
    assert GateSpec(alpha=0.05, budget="family", max_candidates=10).level == pytest.approx(0.005)
    assert GateSpec(alpha=0.05, max_candidates=10).level == 0.05


def test_a_kpi_knows_its_range_direction_and_needs():
    spec = suite(
        kpi(),
        kpi("rate", rule={"type": "max_rate", "limit": 0.1}),
        kpi("bits", task="bits_per_byte", direction="lower"),
        kpi("agent", harness="inspect", task="agent.py@refund", range=[0, 10]),
        kpi("seen", rule={"type": "advisory"}, control=None),
    )
    assert [each.bounds for each in spec.kpis] == [(0.0, 1.0), (0.0, 1.0), None, (0.0, 10.0), (0.0, 1.0)]
    assert [each.sign for each in spec.kpis] == [1, -1, -1, 1, 1]
    assert [each.needs_baseline for each in spec.kpis] == [True, False, True, True, False]
    assert [each.id for each in spec.gating] == ["accuracy", "rate", "bits", "agent"]
    assert spec.kpi("bits") is spec.kpis[2]
    assert spec.kpi("none") is None


def test_a_limit_may_be_measured_by_a_built_in_task():
    spec = suite(
        kpi("k", harness="lm-eval", task="exact_match", data="d.jsonl", rule={"type": "max_rate", "limit": 0.1})
    )
    assert spec.kpis[0].direction == "lower"
