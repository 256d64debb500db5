"""`hallmark eval` and `hallmark gate` over imported results: import, compare, plan, decide, ledger, marks."""

import json

import pytest

from governance import candidates
from registry.records import Certificate, GateDecision

SUITE = """\
suite: foreign
version: 1
canary: foreign-canary-0123456789
gate: {alpha: 0.05, looks: 4}
budgets: {tokens: 1000}
kpis:
  - id: tickets
    harness: import
    task: inhouse 4.2
    samples: 300
    unit: share right
    owner: support
    direction: higher
    range: [0, 1]
    control: null_model
    slices: [language]
    rule: {type: noninferior, margin: 0.1}
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    return str(tmp_path / "suite.yaml")


@pytest.fixture
def two(ws, add_version):
    """Two candidates, `old` and `new`."""
    for name, mark in (("old", b"a"), ("new", b"b")):
        candidates.create(ws, add_version(mark, name=name).id, actor="trainer")


@pytest.fixture
def bring(hallmark, suite, tmp_path):
    """Import 300 rows of which the first `wrong` are wrong."""

    def call(name, wrong, *more, rows=300):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(
            json.dumps({"sample": f"ticket {n}", "kpi": "tickets", "value": float(n >= wrong), "output": f"said {n}",
                        "slices": {"language": "fr" if n % 3 else "de"}}) + "\n" for n in range(rows)))  # fmt: skip
        return hallmark("eval", "import", name, "--suite", suite, "--file", str(file), *more)

    return call


def test_imported_results_are_judged_and_marked_to_the_end(ws, hallmark, suite, two, bring):
    for name, wrong, more in (("old", 60, ()), ("new", 60, ()), ("old", 300, ("--control", "null_model"))):
        code, out, err = bring(name, wrong, *more)
        assert (code, "imported" in out) == (0, True), err
    code, out, _ = hallmark("gate", "decide", "new", "--suite", suite, "--baseline", "old")
    assert code == 0, out
    assert "imported evidence" in out
    assert "this hold-out has judged 1 candidate" in out
    code, out, _ = hallmark("gate", "show", "new", "--json")
    report = json.loads(out)["body"]["report"]
    assert next(kpi["source"] for kpi in report["kpis"] if kpi["kpi"] == "tickets") == "imported"
    code, out, _ = hallmark("gate", "ledger", "--suite", "foreign")
    assert (code, "new" in out, "PASS" in out) == (0, True, True)
    assert hallmark("approve", "new", "--reason", "fine")[0] == 0
    code, out, err = hallmark("promote", "new", "--to", "prod")
    assert code == 0, err
    envelope = ws.get(ws.assets("certificate")[0].id, Certificate).envelope
    import base64

    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    assert {run["imported"] for run in predicate["results"]} == {True}
    assert predicate["plan"]["judged"] == 1
    assert predicate["plan"]["kpis"][0]["source"] == "imported"
    assert "imported" in json.dumps(ws.get(ws.assets("decision")[0].id, GateDecision).report)


def test_two_candidates_are_compared_and_drawn(hallmark, suite, two, bring, tmp_path):
    bring("old", 60)
    bring("new", 30)
    picture = tmp_path / "compare.svg"
    code, out, _ = hallmark("eval", "compare", "new", "old", "--suite", suite, "--plot", str(picture))
    assert code == 0
    assert "tickets" in out
    assert "language=de" in out
    assert picture.read_text().startswith("<svg")
    code, _, err = hallmark("eval", "compare", "new", "old", "--suite", suite, "--plot", str(tmp_path / "x.gif"))
    assert (code, ".svg" in err) == (2, True)
    code, out, _ = hallmark("eval", "plan", suite, "--from", "new", "old")
    assert (code, "tickets" in out) == (0, True)
    code, out, _ = hallmark("eval", "plan", suite, "--expect", "tickets:discordance=0.05", "--json")
    assert (code, json.loads(out)["kpis"][0]["kpi"]) == (0, "tickets")
    code, _, err = hallmark("eval", "plan", suite, "--expect", "nobody:gain=1")
    assert (code, "nobody" in err) == (2, True)


def test_what_is_missing_or_half_there_is_no_verdict(hallmark, suite, two, bring):
    code, _, err = bring("new", 10, rows=299)
    assert (code, "299" in err) == (2, True)
    code, _, err = hallmark("gate", "decide", "new", "--suite", suite, "--baseline", "old")
    assert (code, "hint:" in err) == (3, True)
    code, _, err = hallmark("eval", "compare", "new", "old", "--suite", suite)
    assert (code, "`new` was not evaluated" in err) == (3, True)
    bring("new", 10)
    bring("old", 10)
    code, out, _ = hallmark("gate", "decide", "new", "--suite", suite, "--baseline", "old")
    assert (code, "control `null_model` was not evaluated" in out) == (2, True)


def test_a_dry_run_shows_tests_looks_and_cost_and_measures_nothing(ws, hallmark, suite, two):
    code, out, _ = hallmark("gate", "run", "new", "--suite", suite, "--baseline", "old", "--dry-run")
    assert code == 0
    assert "group_sequential, one-sided level 0.05, look 0 of 4 taken" in out
    assert "tickets" in out
    assert "budgets: tokens 1000" in out
    code, out, _ = hallmark("eval", "run", "new", "--suite", suite, "--dry-run", "--json")
    assert (code, json.loads(out)["estimate"]["tokens"]) == (0, 0)
    assert ws.assets("eval_run") == []


def test_an_outside_address_is_checked_before_anything_runs(hallmark, suite, two):
    code, _, err = hallmark("eval", "run", "new", "--suite", suite, "--url", "models.example.com")
    assert (code, "is no HTTP address" in err) == (2, True)
    code, _, err = hallmark(
        "eval", "run", "new", "--suite", suite, "--url", "http://m", "--api-key-env", "NOT_SET_HERE"
    )
    assert (code, "`NOT_SET_HERE` is not set" in err) == (2, True)
