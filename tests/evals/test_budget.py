"""What an evaluation may cost: estimates before it runs, and a meter that stops it."""

import threading

import pytest

from evals.budget import Meter, estimate, read_rate
from evals.evaluate import evaluate, open_suite
from evals.suite import Budgets
from registry.errors import BudgetSpent

TEXT = "def function(argument):\n    return other_function(argument, 1)\n" * 3


@pytest.fixture
def clock():
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


def test_tokens_may_be_used_up_and_no_further(clock):
    meter = Meter(Budgets(tokens=100), clock=clock)
    meter.spend(60)
    meter.check()
    meter.spend(40)
    with pytest.raises(BudgetSpent, match="100 of 100 tokens") as caught:
        meter.check()
    assert caught.value.exit_code == 3
    assert "kept" in caught.value.hint
    with pytest.raises(BudgetSpent, match="1,234,667 of 100"):
        meter.spend(1_234_567)


def test_judge_calls_end_where_there_are_too_many_and_none_starts_without_one_left():
    meter = Meter(Budgets(judge_calls=2))
    meter.spend(5, 1)
    meter.check(judged=True)
    meter.spend(5, 1)
    meter.check()
    with pytest.raises(BudgetSpent, match="2 of 2 judge calls"):
        meter.check(judged=True)
    with pytest.raises(BudgetSpent, match="3 of 2 judge calls"):
        meter.spend(0, 1)
    with pytest.raises(BudgetSpent, match="0 of 0 judge calls"):
        Meter(Budgets(judge_calls=0)).check(judged=True)


def test_only_time_at_work_counts(clock):
    meter = Meter(Budgets(minutes=2), clock=clock)
    with meter.running():
        clock.now += 60
    clock.now += 1000
    with meter.running():
        clock.now += 59
        meter.check()
        clock.now += 1
        with pytest.raises(BudgetSpent, match="2 of 2 minutes"):
            meter.spend(1)
    with pytest.raises(BudgetSpent):
        meter.check()


def test_without_budgets_nothing_stops(clock):
    meter = Meter(Budgets(), clock=clock)
    with meter.running():
        clock.now += 10**9
        meter.spend(10**12, 10**9)
        meter.check()


def test_the_rate_leaves_out_loading(clock):
    meter = Meter(Budgets(), clock=clock)
    clock.now += 1000
    assert meter.rate == 0.0
    meter.spend(500)
    clock.now += 10
    meter.spend(200)
    assert meter.rate == pytest.approx(20.0)


def test_many_threads_lose_no_token():
    meter = Meter(Budgets())
    threads = [threading.Thread(target=lambda: [meter.spend(1, 1) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (meter.tokens, meter.judge_calls) == (4000, 4000)


def test_an_estimate_says_what_it_bounds_and_what_it_guesses(ws, counted):
    rows = [{"input": f"q{n}", "text": TEXT.replace("1", str(n)), "target": "x" * n} for n in range(1, 9)]
    judges = {"strict": {"url": "http://127.0.0.1:9/v1", "calibration": "cases.jsonl"}}
    lm_eval = {"harness": "lm-eval", "cluster": "", "samples": 4}
    path = counted(
        {**lm_eval, "id": "bits", "task": "bits_per_byte", "direction": "lower", "range": None,
         "rule": {"type": "noninferior", "margin": 0.1, "scale": "ratio"}},
        {**lm_eval, "id": "match", "task": "exact_match", "epochs": 2},
        {"id": "told", "cluster": "", "judge": "strict", "samples": 8},
        rows=rows, judges=judges, budgets={"tokens": 1000, "judge_calls": 4},
    )  # fmt: skip
    suite, instruments = open_suite(ws, path, "operator")
    found = {cost.kpi: cost for cost in estimate(ws, suite, instruments).kpis}
    assert (found["bits"].requests, found["bits"].bound, found["bits"].judge_calls) == (4, True, 0)
    assert found["bits"].tokens == sum(len(sample.input.encode()) + 1 for sample in instruments[0].samples)
    assert (found["match"].requests, found["match"].tokens, found["match"].bound) == (8, 8 * (2 + 1 + 64), True)
    assert (found["told"].requests, found["told"].judge_calls, found["told"].bound) == (8, 8, False)
    assert {cost.seconds for cost in found.values()} == {None}
    lines = "\n".join(estimate(ws, suite, instruments).render_lines())
    assert "at most" in lines
    assert "about" in lines
    assert "budgets: tokens 1000, judge_calls 4" in lines
    assert "may stop before it is done" in lines
    part = estimate(ws, suite, instruments, {"bits": 2})
    assert [(cost.kpi, cost.samples) for cost in part.kpis] == [("bits", 2)]
    assert part.to_plain()["seconds"] is None


def test_seconds_come_from_an_earlier_run_of_the_instrument(ws, plain_candidate, counted, book):
    path = counted()
    suite, instruments = open_suite(ws, path, "operator")
    assert estimate(ws, suite, instruments).seconds is None
    evaluate(ws, plain_candidate().id, path, actor="operator")
    rate = read_rate(ws, instruments[0].digest)
    assert estimate(ws, suite, instruments, {"a": 12}).seconds == pytest.approx(12 * rate)
    assert "time unknown" not in "".join(estimate(ws, suite, instruments).render_lines())


def test_imported_rows_cost_nothing(ws, counted):
    suite, instruments = open_suite(ws, counted({"harness": "import", "task": "x 1", "data": ""}), "operator")
    (cost,) = estimate(ws, suite, instruments).kpis
    assert (cost.requests, cost.tokens, cost.seconds) == (0, 0, 0.0)
