"""One evaluation in several looks: only what is new is measured, nothing twice, and nothing half-way counts."""

import json
import threading
from contextlib import suppress

import pytest

from evals.controls import evaluate_controls, read_controls
from evals.evaluate import Evaluation, evaluate, open_suite
from evals.reading import read, runs_of
from evals.results import Judgement
from evals.samples import Row, decode, encode
from registry.errors import BudgetSpent, EngineFailure, SpecError, Tampered
from registry.protocols import silent
from tests.stubs.counting_harness import dies

JUDGES = {"strict": {"url": "http://127.0.0.1:9/v1", "calibration": "cases.jsonl"}}


class Endpoint:
    """A running endpoint in shape; `model` is what it serves."""

    permit, api_key = "sha256:permit", "key"

    def __init__(self, base_url="http://127.0.0.1:1/v1", model=""):
        self.base_url, self.model, self.headers = base_url, model, {}

    def close(self):
        pass


def rows_of(ws, *runs):
    return [row for run in runs for row in decode(ws.artifacts.read_bytes(run.body["results"]))]


def samples_of(ws, *runs):
    return [row.sample_id for row in rows_of(ws, *runs)]


def test_two_looks_measure_only_the_second_part(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted()
    with Evaluation(ws, candidate.id, path, actor="operator") as evaluation:
        (instrument,) = evaluation.instruments
        first, second = instrument.sizes(2)
        (one,) = evaluation.measure({"a": first})
        assert book.asked == [("a", sample.id) for sample in instrument.samples[:first]]
        assert evaluation.measure({"a": first}) == [one]
        runs = evaluation.measure({"a": second})
    assert book.asked == [("a", sample.id) for sample in instrument.samples]
    assert runs[0] == one
    assert sorted(samples_of(ws, *runs)) == sorted(sample.id for sample in instrument.samples)
    assert [run.body["planned"] for run in runs] == [{"a": 24}, {"a": 24}]
    assert [run.body["completed"]["a"] for run in runs] == [first, second - first]
    assert (book.opened, book.closed) == (1, 1)


def test_a_second_evaluation_asks_nothing_and_a_new_one_goes_on(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted()
    with Evaluation(ws, candidate.id, path, actor="operator") as evaluation:
        first = evaluation.measure({"a": 8})
    asked = len(book.asked)
    whole = evaluate(ws, candidate.id, path, actor="operator")
    assert len(book.asked) == 24
    assert whole[0] == first[0]
    assert evaluate(ws, candidate.id, path, actor="operator", progress=lambda *_: pytest.fail("measured")) == whole
    assert (asked, len(book.asked), book.opened) == (8, 24, 2)
    assert runs_of(ws, open_suite(ws, path, "operator")[0], (), candidate.id) == whole


def test_a_crash_between_two_tasks_keeps_the_finished_one(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted({"id": "a"}, {"id": "b", "task": "other"})
    book.before = dies(after=30)
    with pytest.raises(EngineFailure, match="died"):
        evaluate(ws, candidate.id, path, actor="operator")
    assert runs_of(ws, open_suite(ws, path, "operator")[0], (), candidate.id) == []
    assert (len(book.asked), book.closed) == (30, 1)
    book.before, book.asked = dies(after=1000), []
    (run,) = evaluate(ws, candidate.id, path, actor="operator")
    assert {kpi for kpi, _ in book.asked} == {"b"}
    assert run.body["completed"] == {"a": 24, "b": 24}


def test_after_a_failure_inside_an_evaluation_it_may_go_on(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted()
    with Evaluation(ws, candidate.id, path, actor="operator") as evaluation:
        book.before = dies(after=4)
        with pytest.raises(EngineFailure):
            evaluation.measure()
        book.before = dies(after=1000)
        (run,) = evaluation.measure()
    assert run.body["completed"] == {"a": 24}
    assert (book.opened, book.closed) == (2, 2)


def test_rows_known_to_the_cache_enter_a_run_of_another_suite_unmeasured(ws, plain_candidate, counted, book):
    candidate = plain_candidate()
    evaluate(ws, candidate.id, counted({"slices": ["team"]}), actor="operator")
    asked = list(book.asked)
    rule = {"type": "noninferior", "margin": 0.2}
    path = counted({"id": "renamed", "rule": rule, "slices": ["case"]})
    (run,) = evaluate(ws, candidate.id, path, actor="operator")
    assert book.asked == asked
    suite, instruments = open_suite(ws, path, "operator")
    results, _ = read(ws, suite, instruments, candidate.id)
    assert set(results.kpis["renamed"].slices) == {"case"}
    assert run.body["suite"] == suite.id


def test_kpis_that_share_an_instrument_share_its_rows(ws, plain_candidate, counted, book):
    floor = {"id": "b", "rule": {"type": "floor", "value": 0.1}}
    with Evaluation(ws, plain_candidate().id, counted({}, floor), actor="operator") as evaluation:
        (first,) = evaluation.measure({"a": 4, "b": 10})
        runs = evaluation.measure()
    assert len(book.asked) == len({name for _, name in book.asked}) == 24
    assert first.body["completed"] == {"a": 4, "b": 10}
    values = [(row.sample_id, row.value) for row in rows_of(ws, *runs)]
    assert len(values) == 48
    assert len(set(values)) == 24


def test_appended_samples_are_all_that_is_measured(ws, plain_candidate, counted, book):
    rows = [{"input": f"question {n}", "case": f"c{n // 2}"} for n in range(30)]
    candidate = plain_candidate()
    evaluate(ws, candidate.id, counted(rows=rows[:20]), actor="operator")
    (run,) = evaluate(ws, candidate.id, counted(rows=rows), actor="operator")
    assert len(book.asked) == len(set(book.asked)) == 30
    assert run.body["completed"] == {"a": 30}


def test_other_weights_are_another_model_and_another_policy_is_not(ws, plain_candidate, counted, book):
    path = counted()
    evaluate(ws, plain_candidate().id, path, actor="operator")
    evaluate(ws, plain_candidate(bundle="other").id, path, actor="operator")
    assert len(book.asked) == 24
    evaluate(ws, plain_candidate(b"other weights").id, path, actor="operator")
    evaluate(ws, plain_candidate(template="other").id, path, actor="operator")
    assert len(book.asked) == 72


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[1:], "1 missing"),
        (lambda rows: [*rows, rows[0]], "24 results were planned, 25 came"),
        (lambda rows: [Row("f" * 32, *[getattr(rows[0], name) for name in ("kpi", "epoch", "value", "weight",
                                                                          "cluster")]), *rows[1:]], "1 not planned"),
        (lambda rows: [Row(rows[0].sample_id, "a", 0, float("nan"), 1.0, "c0"), *rows[1:]], "no number"),
    ],
)  # fmt: skip
def test_a_harness_that_gives_something_else_leaves_nothing(ws, plain_candidate, counted, book, change, says):
    candidate, path = plain_candidate(), counted()
    book.change = change
    with pytest.raises(EngineFailure, match=says):
        evaluate(ws, candidate.id, path, actor="operator")
    assert runs_of(ws, open_suite(ws, path, "operator")[0], (), candidate.id) == []
    book.change, asked = lambda rows: rows, len(book.asked)
    evaluate(ws, candidate.id, path, actor="operator")
    assert len(book.asked) == asked + 24


def test_a_sample_with_an_error_is_kept_and_counted(ws, plain_candidate, counted, book):
    book.change = lambda rows: [Row(rows[0].sample_id, "a", 0, float("nan"), 1.0, "c0", "no answer"), *rows[1:]]
    (run,) = evaluate(ws, plain_candidate().id, counted(), actor="operator")
    assert (run.body["completed"], run.body["errors"]) == ({"a": 23}, {"a": 1})


def test_a_token_budget_stops_with_what_it_has_and_resumes(ws, plain_candidate, counted, book):
    book.tokens = 10
    candidate = plain_candidate()
    path = counted({"id": "a"}, {"id": "b", "task": "other"}, budgets={"tokens": 300})
    with pytest.raises(BudgetSpent, match="310 of 300 tokens") as caught:
        evaluate(ws, candidate.id, path, actor="operator")
    assert "budgets.tokens" in caught.value.hint
    assert [kpi for kpi, _ in book.asked] == ["a"] * 24 + ["b"] * 7
    book.asked.clear()
    (run,) = evaluate(ws, candidate.id, path, actor="operator")
    assert [kpi for kpi, _ in book.asked] == ["b"] * 24
    assert run.body["completed"] == {"a": 24, "b": 24}


def test_a_spent_budget_lets_nothing_more_start(ws, plain_candidate, counted, book):
    book.tokens = 10
    with Evaluation(ws, plain_candidate().id, counted(budgets={"tokens": 80}), actor="operator") as evaluation:
        runs = evaluation.measure({"a": 8})
        assert evaluation.measure({"a": 8}) == runs
        with pytest.raises(BudgetSpent, match="80 of 80 tokens"):
            evaluation.measure({"a": 9})
    assert len(book.asked) == 8


def test_judge_calls_and_minutes_are_budgets_too(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted(budgets={"judge_calls": 5})
    book.before = lambda kpi, sample, bench: bench.spend(0, 1)
    with pytest.raises(BudgetSpent, match="6 of 5 judge calls"):
        evaluate(ws, candidate.id, path, actor="operator")
    assert len(book.asked) == 5
    book.before = lambda kpi, sample, bench: None
    with pytest.raises(BudgetSpent, match="minutes"):
        evaluate(ws, candidate.id, counted(budgets={"minutes": 1e-9}), actor="operator")
    judged = {"id": "judged", "judge": "strict"}
    path = counted(judged, judges=JUDGES, budgets={"judge_calls": 0})
    with pytest.raises(BudgetSpent, match="0 of 0 judge calls"):
        evaluate(ws, candidate.id, path, actor="operator", endpoints={"judge:strict": Endpoint()})
    assert len(book.asked) == 5


def test_endpoints_start_in_the_background_while_weights_are_scored(ws, plain_candidate, counted, book):
    class Starting(Endpoint):
        begun = False

        def begin(self):
            self.begun = True

    endpoint, seen = Starting(), []
    book.before = lambda kpi, sample, bench: seen.append((kpi, endpoint.begun))
    path = counted({"id": "b", "endpoint": "guarded"}, {"id": "a"})
    evaluate(ws, plain_candidate().id, path, actor="operator", endpoints={"guarded": endpoint})
    assert list(dict.fromkeys(seen)) == [("a", True), ("b", True)]


def test_each_endpoint_is_a_session_of_its_own_and_another_model(ws, plain_candidate, counted, book):
    kinds = ("weights", "guarded", "vllm", "url")
    path = counted(*({"id": kind, "endpoint": kind} for kind in kinds))
    endpoints = {
        "guarded": Endpoint(), "vllm": Endpoint(), "url": Endpoint("https://models.example.com/v1", model="large")
    }  # fmt: skip
    candidate = plain_candidate()
    (run,) = evaluate(ws, candidate.id, path, actor="operator", endpoints=endpoints)
    assert run.body["target"] == {kind: kind for kind in kinds}
    assert run.body["permit"] == "sha256:permit"
    assert book.opened == book.closed == 4
    assert len({str(bench.target.identity) for bench in book.benches}) == 4
    asked = next(bench.target for bench in book.benches if "example" in getattr(bench.target, "base_url", ""))
    assert (asked.identity, asked.model) == ({"url": "https://models.example.com/v1", "model": "large"}, "large")
    suite, instruments = open_suite(ws, path, "operator")
    results, _ = read(ws, suite, instruments, candidate.id)
    assert {name: each.source for name, each in results.kpis.items()} == {
        "weights": "measured", "guarded": "measured", "vllm": "measured", "url": "unverified"
    }  # fmt: skip


def test_another_url_or_model_is_asked_anew(ws, plain_candidate, counted, book):
    candidate = plain_candidate()
    for number, endpoint in enumerate([Endpoint(), Endpoint(model="b"), Endpoint("http://127.0.0.1:2/v1"), Endpoint()]):
        path = counted({"endpoint": "url"}, version=number + 1)
        evaluate(ws, candidate.id, path, actor="operator", endpoints={"url": endpoint})
    assert len(book.asked) == 3 * 24


def test_known_answers_of_the_guarded_endpoint_need_none_running_and_name_their_permit(
    ws, plain_candidate, counted, book
):
    candidate = plain_candidate()
    path = counted({"endpoint": "guarded"})
    evaluate(ws, candidate.id, path, actor="operator", endpoints={"guarded": Endpoint()})
    (run,) = evaluate(ws, candidate.id, counted({"endpoint": "guarded"}, version=2), actor="operator")
    assert run.body["permit"] == "sha256:permit"
    assert len(book.asked) == 24
    with pytest.raises(EngineFailure, match="guarded"):
        evaluate(ws, plain_candidate(bundle="other").id, path, actor="operator")


@pytest.mark.parametrize(("kind", "hint"), [("guarded", "permit"), ("vllm", "vLLM"), ("url", "--url")])
def test_a_missing_endpoint_is_said_before_anything_runs(ws, plain_candidate, counted, book, kind, hint):
    with pytest.raises(EngineFailure, match=f"`b` needs the .*{kind}.*none is running") as caught:
        evaluate(ws, plain_candidate().id, counted({}, {"id": "b", "endpoint": kind}), actor="operator")
    assert hint in caught.value.hint
    assert book.asked == []


def test_only_a_url_may_be_elsewhere(ws, plain_candidate, counted):
    endpoints = {"guarded": Endpoint("https://models.example.com/v1")}
    with pytest.raises(EngineFailure, match="not on this machine"):
        evaluate(ws, plain_candidate().id, counted({"endpoint": "guarded"}), actor="operator", endpoints=endpoints)


def test_how_a_judge_stands_is_kept_with_the_rows(ws, plain_candidate, counted, book):
    judges = {name: dict(judge) for name, judge in JUDGES.items()}
    path = counted({"id": "judged", "judge": "strict"}, judges=judges)
    candidate, endpoints = plain_candidate(), {"judge:strict": Endpoint("http://127.0.0.1:9/v1")}
    (run,) = evaluate(ws, candidate.id, path, actor="operator", endpoints=endpoints)
    assert set(book.benches[0].judges) == {"strict"}
    suite, instruments = open_suite(ws, path, "operator")
    known = read(ws, suite, instruments, candidate.id)[0].kpis["judged"].judge
    assert known == Judgement("sha256:judge", 0.8, 0.6, 0.4, 50)
    assert run.body["judges"]["judged"]["kappa"] == 0.8
    other = counted({"id": "judged", "judge": "strict"}, judges=judges, version=2)
    (again,) = evaluate(ws, candidate.id, other, actor="operator", endpoints=endpoints)
    assert again.body["judges"] == run.body["judges"]
    assert len(book.asked) == 24
    judges["strict"]["model"] = "another"
    changed = open_suite(ws, counted({"id": "judged", "judge": "strict"}, judges=judges), "operator")[1]
    assert changed[0].digest != instruments[0].digest
    with pytest.raises(EngineFailure, match="judge:strict"):
        evaluate(ws, candidate.id, counted({"id": "judged", "judge": "strict"}, judges=judges), actor="operator")


def test_controls_follow_the_looks_and_are_shared(ws, plain_candidate, counted, book):
    book.value = lambda sample, bench: 0.0 if getattr(bench.target, "random_seed", None) else 1.0
    first, path = plain_candidate(), counted({}, {"id": "free", "rule": {"type": "advisory"}, "control": None})
    suite, instruments = open_suite(ws, path, "operator")
    runs = evaluate_controls(ws, first.id, path, actor="operator", due={"a": 8})
    assert [run.body["control"] for run in runs] == ["null_model"]
    assert [kpi for kpi, _ in book.asked] == ["a"] * 8
    results, cited = read_controls(ws, suite, instruments, {"a": 8})
    assert cited == runs
    assert list(results["null_model"].results.kpis["a"].values) == [0.0] * 8
    assert read_controls(ws, suite, instruments) == ({}, [])
    # Another version of the same architecture: its null model is the same, so only new samples are measured.
    second = plain_candidate(b"other weights")
    evaluate_controls(ws, second.id, path, actor="operator", due={"a": 8})
    assert len(book.asked) == 8
    whole = evaluate_controls(ws, second.id, path, actor="operator")
    assert len(book.asked) == 24
    assert {run.body["candidate"] for run in whole} == {second.id}
    assert read_controls(ws, suite, instruments)[0]["null_model"].results.kpis["a"].due == 24
    evaluate_controls(ws, first.id, path, actor="operator")
    assert len(book.asked) == 24


def test_every_target_has_a_control(ws, plain_candidate, counted, book):
    kinds = ("weights", "guarded", "vllm", "url")
    kpis = [{"id": f"{kind}-{control}", "endpoint": kind, "control": control, "task": kind + control}
            for kind in kinds for control in ("null_model", "planted_violator")]  # fmt: skip
    said = {}
    book.before = lambda kpi, sample, bench: said.setdefault(kpi, bench.target)
    runs = evaluate_controls(ws, plain_candidate().id, counted(*kpis), actor="operator")
    assert {run.body["control"] for run in runs} == {"null_model", "planted_violator"}
    assert said["weights-null_model"].random_seed is not None
    assert all(said[kpi["id"]].base_url.startswith("http://127.0.0.1:") for kpi in kpis[1:])
    assert {run.body["permit"] for run in runs} == {""}


def test_controls_of_imported_kpis_are_not_measured(ws, plain_candidate, counted):
    kpi = {"harness": "import", "task": "other 1", "data": ""}
    path = counted(kpi)
    assert evaluate_controls(ws, plain_candidate().id, path, actor="operator") == []
    assert evaluate(ws, plain_candidate().id, path, actor="operator") == []


def test_answers_are_kept_until_the_rows_are_stored(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted()

    def answers():
        return [file.name for file in ws.work("evals", "answers").rglob("*") if file.is_file()]

    def writes(kpi, sample, bench):
        (bench.answers / "answers.jsonl").write_text("kept")
        dies(after=3)(kpi, sample, bench)

    book.before = writes
    with pytest.raises(EngineFailure):
        evaluate(ws, candidate.id, path, actor="operator")
    assert answers() == ["answers.jsonl"]
    book.before = lambda kpi, sample, bench: None
    evaluate(ws, candidate.id, path, actor="operator")
    assert answers() == []
    assert list(ws.work("evals", "scratch").iterdir()) == []


def test_answers_that_belong_to_no_stored_row_stay_where_a_caller_goes_on(ws, plain_candidate, counted, book):
    def writes(kpi, sample, bench):
        (bench.answers / "answers.jsonl").write_text("kept")
        dies(after=3)(kpi, sample, bench)

    book.before = writes
    with Evaluation(ws, plain_candidate().id, counted(), actor="operator") as evaluation, suppress(EngineFailure):
        evaluation.measure()
    assert [file.name for file in ws.work("evals", "answers").rglob("*.jsonl")] == ["answers.jsonl"]


def test_what_a_killed_evaluation_left_behind_is_removed_by_the_next_and_a_living_one_keeps_its_own(
    ws, plain_candidate, counted, book
):
    left = ws.work("evals", "scratch") / "weights-killed"
    (left / "model").mkdir(parents=True)
    (left / "model" / "weights").write_bytes(b"x")
    (left / "model").chmod(0o500)
    first, second = plain_candidate().id, plain_candidate(b"other").id
    with Evaluation(ws, first, counted(), actor="operator") as living:
        living.measure({"a": 4})
        own = set(ws.work("evals", "scratch").iterdir())
        assert (left in own, len(own)) == (False, 2)
        evaluate(ws, second, counted(), actor="operator")
        assert set(ws.work("evals", "scratch").iterdir()) == own
        living.measure()
    assert list(ws.work("evals", "scratch").iterdir()) == []


def test_weights_that_are_too_large_are_let_go_between_looks(ws, plain_candidate, counted, book, monkeypatch):
    monkeypatch.setattr("evals.measure.LARGE", 3)
    with Evaluation(ws, plain_candidate().id, counted(), actor="operator") as evaluation:
        evaluation.measure({"a": 8})
        assert (book.opened, book.closed) == (1, 1)
        evaluation.measure()
        assert (book.opened, book.closed) == (2, 2)
    assert book.benches[0].target.folder == book.benches[1].target.folder


def test_two_processes_measuring_at_once_do_no_harm(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted()
    suite, instruments = open_suite(ws, path, "operator")
    with (
        Evaluation(ws, candidate.id, path, actor="operator") as first,
        Evaluation(ws, candidate.id, path, actor="operator") as second,
    ):
        first.measure({"a": 8})
        second.measure()
        threads = [threading.Thread(target=each.measure) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read(ws, suite, instruments, candidate.id)[0].kpis["a"].due == 24


def test_progress_carries_a_rate(ws, plain_candidate, counted, book):
    notes = []
    book.before = lambda kpi, sample, bench: bench.spend(50, 0)
    evaluate(
        ws, plain_candidate().id, counted(), actor="operator", progress=lambda s, d, t, note="": notes.append(note)
    )
    assert notes[-1].endswith("tokens/s")
    evaluate(ws, plain_candidate(b"x").id, counted(), actor="operator", progress=silent)


def test_a_doubled_sample_is_refused_before_anything_runs(ws, plain_candidate, counted, book):
    rows = [{"input": "same", "case": "a"}, {"input": "same", "case": "b"}]
    with pytest.raises(SpecError, match="same as line 1"):
        evaluate(ws, plain_candidate().id, counted(rows=rows), actor="operator")
    assert book.asked == []


def test_sealed_samples_are_nowhere_in_the_clear(ws, plain_candidate, counted, book, sealed, holding):
    rows = [{"input": f"nightjar {n}", "target": f"kingfisher {n}", "case": f"c{n}", "team": "t"} for n in range(6)]
    path = counted({"data": "rows.jsonl.sealed", "slices": ["team"]}, rows=rows)
    clear = path.parent / "rows.jsonl"
    (path.parent / "rows.jsonl.sealed").write_bytes(sealed(clear.read_bytes()))
    clear.unlink()
    candidate = plain_candidate()
    evaluate(ws, candidate.id, path, actor="evaluator")
    evaluate_controls(ws, candidate.id, path, actor="evaluator")
    suite, (instrument,) = open_suite(ws, path, "evaluator")
    assert instrument.sealed
    assert {sample.input for sample in instrument.samples} == {row["input"] for row in rows}
    assert holding(instrument.samples[0].id)
    assert holding("nightjar") == holding("kingfisher") == []
    found = read(ws, suite, [instrument], candidate.id)[0].kpis["a"]
    assert list(found.slices["team"]) == ["t"] * 6
    # Sealed anew, for whomever, the samples and so the instrument are the same.
    (path.parent / "rows.jsonl.sealed").write_bytes(sealed("\n".join(map(json.dumps, rows)).encode()))
    assert open_suite(ws, path, "evaluator")[1][0].digest == instrument.digest


def test_a_control_that_repeats_sealed_samples_leaves_nothing_behind(
    ws, plain_candidate, counted, book, sealed, holding
):
    path = counted({"data": "rows.jsonl.sealed", "control": "planted_violator"})
    (path.parent / "rows.jsonl.sealed").write_bytes(sealed((path.parent / "rows.jsonl").read_bytes()))

    def writes(kpi, sample, bench):
        (bench.answers / "answers.jsonl").write_text(sample.input)
        dies(after=3)(kpi, sample, bench)

    book.before = writes
    with pytest.raises(EngineFailure):
        evaluate_controls(ws, plain_candidate().id, path, actor="evaluator")
    assert holding("question") == []


def test_a_cache_that_lost_an_epoch_is_measured_again(ws, plain_candidate, counted, book):
    candidate, path = plain_candidate(), counted({"epochs": 2})
    (run,) = evaluate(ws, candidate.id, path, actor="operator")
    (part,) = ws.work("evals", "rows").rglob("*.parquet")
    part.write_bytes(encode([row for row in rows_of(ws, run) if row.epoch == 0]))
    for version in (2, 3):
        (again,) = evaluate(ws, candidate.id, counted({"epochs": 2}, version=version), actor="operator")
        assert again.body["completed"] == {"a": 24}
        assert len(book.asked) == 48


def test_a_sealed_file_that_is_not_ours_to_open_stops_before_anything_runs(ws, plain_candidate, counted, book, sealed):
    path = counted({"data": "rows.jsonl.sealed"})
    data = bytearray(sealed((path.parent / "rows.jsonl").read_bytes()))
    data[-1] ^= 1
    (path.parent / "rows.jsonl.sealed").write_bytes(bytes(data))
    with pytest.raises(Tampered):
        evaluate(ws, plain_candidate().id, path, actor="evaluator")
    (path.parent / "rows.jsonl.sealed").write_bytes((path.parent / "rows.jsonl").read_bytes())
    with pytest.raises(SpecError, match="not a sealed file"):
        evaluate(ws, plain_candidate().id, path, actor="evaluator")
    assert book.asked == []
