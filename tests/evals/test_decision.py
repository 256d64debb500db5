import json

import msgspec
import numpy as np
import pytest

from evals.decision import EXIT_CODES, SEVERITY, Decision, KpiVerdict, WorstItem
from evals.gate import decide
from registry.records import canonical, digest_of
from tests.evals.gate_cases import column, controls, kpi, results, suite

N = 300
BASE = (np.arange(N) % 10 < 7) * 1.0
SPEC = suite(
    kpi(samples=N, owner="search team"),
    kpi("rate", samples=N, rule={"type": "max_rate", "limit": 0.05}),
    kpi(
        "bits",
        samples=N,
        task="bits_per_byte",
        direction="lower",
        unit="bits",
        rule={"type": "noninferior", "margin": 0.1},
    ),
    kpi("note", samples=N, rule={"type": "advisory"}, control=None),
)
BITS = 1.5 + np.sin(np.arange(N))
BAD = controls(accuracy=np.zeros(N), rate=np.ones(N), bits=BITS + 9 + np.cos(np.arange(N)))


def decision(accuracy=BASE, rate=None, baseline=True, **changes):
    rate = np.zeros(N) if rate is None else rate
    bits = BITS + 0.01 * np.cos(np.arange(N))
    first = results("sha256:" + "c" * 64, accuracy=accuracy, rate=rate, bits=bits, note=BASE)
    second = results("sha256:" + "b" * 64, accuracy=BASE, rate=rate, bits=BITS, note=BASE)
    return decide(SPEC, first, second if baseline else None, controls=BAD)


def test_exit_codes_follow_the_verdict():
    codes = {verdict: make(verdict).exit_code for verdict in SEVERITY}
    assert codes == EXIT_CODES == {"PASS": 0, "FAIL": 1, "INVALID": 2, "INCONCLUSIVE": 3}


def make(verdict, *kpis):
    return Decision("s", 1, "sha256:d", "c", None, None, verdict, False, "fixed", 0.05, 0.05, kpis, ())


def test_a_pass_is_readable():
    text = "\n".join(decision().render_lines())
    assert text.startswith("PASS  suite cases v1, candidate sha256:cccccccccccc, against sha256:bbbbbbbbbbbb, fixed")
    assert "no more than 0.1 worse than the baseline: observed +0, the lower bound of the gain is -0.0099" in text
    assert "owner search team" in text
    assert "bound: t" in text
    assert "advisory: reported, does not gate" in text
    assert "worst samples" not in text


def test_a_refusal_names_kpi_difference_interval_and_worst_items():
    worse = np.where(np.arange(N) % 3 == 0, 0.0, BASE)
    found = decision(worse)
    lines = found.render_lines(worst=2)
    assert lines[0].startswith("FAIL")
    assert "accuracy: more than 0.1 worse than the baseline: observed -0.2333" in lines[1]
    assert any("interval [-0.2" in line for line in lines)
    assert sum("0 instead of 1" in line for line in lines) == 2
    assert max(map(len, lines)) <= 130


def test_a_bootstrap_says_so():
    lines = decision(baseline=False).render_lines()
    assert lines[0].startswith("PASS (bootstrap: the first of its line)")
    assert "no baseline" in lines[0]


def test_an_undecided_rate_shows_its_events():
    text = "\n".join(decision(rate=(np.arange(N) < 9) * 1.0).render_lines())
    assert "INCONCLUSIVE rate" in text
    assert "more samples like these" in text
    assert "s00000  1" in text


def test_an_invalid_kpi_shows_why():
    found = decision(column(BASE, errors=["died"] + [""] * (N - 1)))
    assert found.reasons == ("accuracy: the candidate has 1 error sample(s), first `s00000`: died",)


@pytest.mark.parametrize("accuracy", [BASE, np.where(np.arange(N) % 3 == 0, 0.0, BASE), column([])])
def test_a_decision_is_plain_canonical_json(accuracy):
    body = decision(accuracy).to_plain()
    assert json.loads(canonical(body)) == body
    assert digest_of(body) == digest_of(decision(accuracy).to_plain())
    assert [item["kpi"] for item in body["kpis"]] == ["accuracy", "rate", "bits", "note"]


def test_figures_without_bounds_clusters_and_clips_are_shown():
    item = KpiVerdict(
        "k", "noninferior", "INCONCLUSIVE", True, against="baseline", estimate=0.5, n=9, clusters=3, clipped=2,
        bound="none", worst=(WorstItem("s", 1.0, 2.0, -1.0),), reasons=("why",),
    )  # fmt: skip
    text = "\n".join(make("INCONCLUSIVE", item).render_lines())
    assert "interval [-inf, inf]" in text
    assert "3 clusters" in text
    assert "2 clipped" in text


def test_a_stored_report_becomes_the_same_decision_again():
    found = decision(np.where(np.arange(N) % 3 == 0, 0.0, BASE))
    assert msgspec.convert(json.loads(canonical(found.to_plain())), Decision) == found


def test_a_value_without_bound_or_opponent_is_one_short_line():
    item = KpiVerdict("k", "floor", "ADVISORY", False, estimate=0.5, n=9, clusters=9)
    lines = make("PASS", item).render_lines()
    assert lines[-1] == "    0.5  interval [-inf, inf]  n 9"
