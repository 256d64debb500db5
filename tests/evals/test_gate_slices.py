import numpy as np
import pytest

from evals.gate import decide
from tests.evals.gate_cases import column, controls, kpi, prefix, results, suite

N = 400
BASE = (np.arange(N) % 10 < 7) * 1.0
LANGUAGE = np.where(np.arange(N) % 4 == 0, "de", "en")
TIER = np.where(np.arange(N) % 40 == 0, "gold", "free")
SLICES = {"language": LANGUAGE}
RULE = {"type": "noninferior", "margin": 0.2}
DE_LOST = np.where(LANGUAGE == "de", 0.0, BASE)
"""Wrong on all German questions: .2 below the baseline over all."""


def sliced(slice_rule=None, mode="fixed", fields=("language",), **more):
    own = {"rule": {"type": "noninferior", "margin": 0.2}, **more}
    entry = kpi("a", samples=N, slices=list(fields), **own, **({"slice_rule": slice_rule} if slice_rule else {}))
    return suite(entry, gate={"mode": mode, "looks": 4})


def look(spec, candidate=BASE, due=N, base=BASE, history=(), slices=SLICES, anchor=None, **more):
    def rows(values, held=due):
        return prefix(values, held, slices=slices, **more)

    return decide(
        spec,
        results("candidate", a=rows(candidate)),
        results("baseline", a=rows(base)),
        anchor=None if anchor is None else results("anchor", a=rows(anchor)),
        controls=controls(a=rows(np.zeros(N))),
        history=history,
    )


def by_slice(decision):
    return {(item.slice, item.against): item for item in decision.kpis if item.slice}


def test_a_slice_is_a_reported_line_of_its_own():
    found = look(sliced(), DE_LOST)
    assert [item.slice for item in found.kpis] == ["", "language=de", "language=en"]
    german = by_slice(found)["language=de", "baseline"]
    assert (german.verdict, german.gating, german.n) == ("ADVISORY", False, 100)
    assert (german.candidate, german.baseline) == (0.0, 0.8)
    assert german.estimate == pytest.approx(-0.8)
    assert german.lower < german.estimate < german.upper
    lines = found.render_lines()
    assert any(line.startswith("      language=de: gain -0.8") for line in lines)


def test_reported_slices_change_no_verdict():
    plain = look(sliced(fields=()), DE_LOST)
    found = look(sliced(), DE_LOST)
    assert (found.verdict, found.reasons, found.kpis[0]) == (plain.verdict, plain.reasons, plain.kpis[0])


def test_a_slice_rule_makes_every_slice_gate():
    wide = {"rule": {"type": "noninferior", "margin": 0.3}}  # .2 below over all is within this
    spec = sliced(RULE, **wide)
    found = look(spec, DE_LOST)
    assert found.kpis[0].verdict == "PASS"
    parts = by_slice(found)
    assert (parts["language=de", "baseline"].verdict, parts["language=en", "baseline"].verdict) == ("FAIL", "PASS")
    assert found.verdict == "FAIL"
    assert found.reasons[0].startswith("a (language=de): ")
    assert any("a [language=de]" in line for line in found.render_lines())
    assert look(spec).verdict == "PASS"


def test_slices_count_in_holms_family():
    worse = np.where(np.arange(N) % 3 == 0, 0.0, BASE)
    plain, found = look(sliced(fields=()), worse), look(sliced(RULE), worse)
    assert 0.0 < plain.kpis[0].p_fail < found.kpis[0].p_fail  # three comparisons instead of one


def test_a_slice_too_small_is_inconclusive_and_says_how_many_it_needs():
    found = look(sliced(RULE, fields=("tier",)), slices={"tier": TIER})
    small = by_slice(found)["tier=gold", "baseline"]
    assert (small.verdict, small.n, found.verdict) == ("INCONCLUSIVE", 10, "INCONCLUSIVE")
    assert small.samples_needed >= 1
    assert "more samples like these" in " ".join(small.reasons)


def test_every_slice_holds_against_the_anchor_too():
    spec = sliced(RULE)
    found = look(spec, DE_LOST, base=DE_LOST, anchor=BASE)
    parts = by_slice(found)
    assert parts["language=de", "baseline"].verdict == "PASS"
    assert parts["language=de", "anchor"].verdict == "FAIL"
    assert any(reason.startswith("a (language=de, anchor)") for reason in found.reasons)


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ({}, "no sample has the slice field `language`"),
        ({"language": np.where(np.arange(N) == 7, "", LANGUAGE)}, "1 sample(s) have no `language`, first `s00007`"),
    ],
)
def test_a_missing_slice_field_is_invalid_where_slices_gate(slices, words):
    found = look(sliced(RULE), slices=slices)
    assert found.verdict == "INVALID"
    assert words in found.reasons[0]
    reported = look(sliced(), slices=slices)
    assert reported.verdict == "PASS"
    assert all(item.verdict == "ADVISORY" for item in reported.kpis[1:])


def test_a_column_of_another_length_is_invalid():
    short = column(BASE, slices={"language": LANGUAGE[:10]})
    found = decide(sliced(), results("c", a=short), results("b", a=column(BASE)), controls=controls(a=np.zeros(N)))
    assert "10 values of `language` for 400 rows" in found.reasons[0]


def test_epochs_of_one_sample_must_share_their_slice():
    twice = {"ids": [f"s{i // 2:05d}" for i in range(N)], "epochs": [0, 1] * (N // 2), "planned": N // 2}
    mixed = column(BASE, slices={"language": np.array(["de", "en"] * (N // 2), dtype=object)}, **twice)
    spec = suite(kpi("a", samples=N // 2, epochs=2, slices=["language"]))
    found = decide(spec, results("c", a=mixed), results("b", a=mixed), controls=controls(a=mixed))
    assert "epochs name different values of `language`" in found.reasons[0]


def test_a_broken_kpi_has_no_sound_slice():
    found = look(sliced(RULE), np.where(np.arange(N) == 3, np.nan, BASE))
    assert {item.verdict for item in found.kpis} == {"INVALID"}
    gone = decide(sliced(RULE), results("c"), results("b", a=BASE), controls={})
    assert [(item.slice, item.verdict) for item in gone.kpis] == [("", "INVALID"), ("language", "INVALID")]


def test_slices_of_a_rule_on_the_candidate_alone():
    floor = {"type": "floor", "value": 0.5}
    spec = suite(kpi("a", samples=N, rule=floor, slices=["language"], slice_rule=floor), gate={"mode": "fixed"})
    rows = column(DE_LOST, slices=SLICES)
    found = decide(spec, results("c", a=rows), None, controls=controls(a=np.zeros(N)))
    assert [item.verdict for item in found.kpis] == ["INCONCLUSIVE", "FAIL", "PASS"]
    assert {item.against for item in found.kpis} == {""}


def test_slices_that_compare_are_not_judged_without_a_baseline():
    floor = {"type": "floor", "value": 0.5}
    spec = suite(kpi("a", samples=N, rule=floor, slices=["language"], slice_rule=RULE))
    found = decide(spec, results("c", a=column(BASE, slices=SLICES)), None, controls=controls(a=np.zeros(N)))
    assert [item.verdict for item in found.kpis] == ["PASS", "NOT_JUDGED", "NOT_JUDGED"]
    assert (found.verdict, found.bootstrap) == ("PASS", True)


def test_slices_of_an_advisory_kpi_may_gate_only_with_a_control():
    entry = kpi("a", samples=N, rule={"type": "advisory"}, slices=["language"], slice_rule=RULE, control=None)
    found = look(suite(entry, kpi("b", samples=N)))
    assert "no `control` is named" in by_slice(found)["language=de", "baseline"].reasons[0]
    named = suite(
        {**entry, "control": "null_model"},
        gate={"mode": "fixed"},
        kpis=[entry | {"control": "null_model"}, kpi("b", samples=N)],
    )
    rows = column(BASE, slices=SLICES)
    zero = controls(a=column(np.zeros(N), slices=SLICES), b=np.zeros(N))
    found = decide(named, results("c", a=rows, b=BASE), results("b", a=rows, b=BASE), controls=zero)
    assert [item.verdict for item in found.kpis] == ["ADVISORY", "PASS", "PASS", "PASS"]


# Looks

SIZES = {"language": {"de": 100, "en": 300}}


def test_slices_latch_one_by_one():
    spec = sliced(RULE, mode="group_sequential")
    taken = [look(spec, due=40, slice_sizes=SIZES)]
    assert by_slice(taken[0])["language=de", "baseline"].verdict == "INCONCLUSIVE"
    assert by_slice(taken[0])["language=en", "baseline"].fraction == pytest.approx(0.1)
    taken.append(look(spec, due=120, slice_sizes=SIZES, history=taken))
    english = by_slice(taken[1])["language=en", "baseline"]
    assert (english.verdict, english.latched, english.n) == ("PASS", False, 90)
    assert taken[1].open_kpis == ("a",)
    taken.append(look(spec, DE_LOST, due=400, slice_sizes=SIZES, history=taken))
    parts = by_slice(taken[2])
    assert (parts["language=en", "baseline"].latched, parts["language=en", "baseline"].n) == (True, 90)
    assert parts["language=de", "baseline"].verdict == "FAIL"


def test_a_slice_not_yet_met_keeps_the_gate_open():
    late = np.where(np.arange(N) >= 300, "de", "en")
    sizes = {"language": {"de": 100, "en": 300}}
    spec = sliced(RULE, mode="group_sequential")
    early = look(spec, due=300, slices={"language": late}, slice_sizes=sizes)
    unseen = by_slice(early)["language=de", "baseline"]
    assert (unseen.verdict, early.verdict, early.final, early.open_kpis) == (
        "INCONCLUSIVE",
        "INCONCLUSIVE",
        False,
        ("a",),
    )
    assert "none of the 100 samples of this slice" in unseen.reasons[0]
    assert look(spec, slices={"language": late}, slice_sizes=sizes, history=[early]).verdict == "PASS"
    wrong = {"language": {"de": 100, "en": 300, "fr": 5}}
    assert "none of the 5 samples" in look(spec, slices={"language": late}, slice_sizes=wrong).reasons[0]
    assert look(spec, slices={"language": late}, slice_sizes=wrong).verdict == "INVALID"


def test_gating_slices_that_are_not_known_wait_for_all_samples():
    spec = sliced(RULE, mode="group_sequential")
    early = look(spec, due=300)
    assert (early.verdict, early.open_kpis) == ("INCONCLUSIVE", ("a",))
    assert by_slice(early)["language", "baseline"].reasons[0].startswith("the values of `language` are known")
    assert look(spec, history=[early]).verdict == "PASS"
    assert [item.slice for item in look(sliced(mode="group_sequential"), due=300).kpis] == [
        "",
        "language=de",
        "language=en",
    ]


def test_a_slice_of_a_whole_suite_is_exact_at_the_end():
    spec = sliced(RULE, mode="whole_suite")
    found = look(spec, DE_LOST)
    assert {item.bound for item in found.kpis} == {"full suite"}
    assert found.verdict == "FAIL"
    early = look(spec, due=200, slice_sizes=SIZES)
    assert by_slice(early)["language=de", "baseline"].bound != "full suite"


def test_a_settled_slice_is_carried_without_rows():
    spec = sliced(RULE, mode="group_sequential")
    taken = [look(spec, due=390, slice_sizes=SIZES)]
    assert taken[0].verdict == "PASS"
    gone = decide(spec, results("candidate"), results("baseline"), controls={}, history=taken)
    assert [(item.slice, item.latched) for item in gone.kpis] == [
        ("", True),
        ("language=de", True),
        ("language=en", True),
    ]
    assert gone.verdict == "PASS"
