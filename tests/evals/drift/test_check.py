"""The drift check over a real decision log: quiet, drift and too little data."""

import json

import numpy as np
import pytest

from evals.drift import check as room
from evals.drift.asking import Asked
from evals.drift.canaries import Replay
from evals.drift.signals import read_signals
from registry.errors import SpecError
from registry.records import DriftWindow
from tests.evals.drift.logged import QUERIES, decisions


def test_the_same_traffic_is_quiet(ws):
    rng = np.random.default_rng(0)
    ws.journal.append(list(decisions(rng, 0, 200)))
    window = room.check(ws, "prod", actor="operator")
    assert window.verdict == "quiet"
    assert (window.reference["n"], window.current["n"]) == (100, 100)
    assert {signal["verdict"] for signal in window.signals} == {"quiet"}
    assert "5%" in room.describe(window)[-1]
    assert ws.get(window.id, DriftWindow).verdict == "quiet"


def test_more_blocks_and_shorter_answers_are_drift_and_named(ws):
    rng = np.random.default_rng(1)
    ws.journal.append([*decisions(rng, 0, 120), *decisions(rng, 120, 120, blocked=0.4, length=200)])
    told = []
    window = room.check(ws, "prod", actor="operator", progress=lambda stage, *_: told.append(stage))
    assert window.verdict == "drift"
    moved = {signal["name"] for signal in window.signals if signal["verdict"] == "drift"}
    assert {"refused", "rule:nightjar", "output_chars"} <= moved
    assert not {"input_chars", "truncated", "failed"} & moved
    assert all(signal["false_alarm"] for signal in window.signals)
    assert "signals" in told


def test_other_prompts_are_seen_by_their_wording_though_lengths_stay(ws):
    rng = np.random.default_rng(5)
    ws.journal.append([*decisions(rng, 0, 150), *decisions(rng, 150, 150, asked=QUERIES)])
    window = room.check(ws, "prod", actor="operator")
    moved = {signal["name"]: signal["side"] for signal in window.signals if signal["verdict"] == "drift"}
    assert set(moved.values()) == {"traffic"}
    assert {"input_entropy", "input_language:en"} <= set(moved)
    assert any(name.startswith("input_embedding") for name in moved)
    assert window.cause == ""


def test_records_without_traits_are_read_beside_new_ones(ws):
    rng = np.random.default_rng(6)
    ws.journal.append([*decisions(rng, 0, 100, traits=False), *decisions(rng, 100, 100)])
    window = room.check(ws, "prod", actor="operator")
    assert window.verdict == "quiet"
    entropy = next(signal for signal in window.signals if signal["name"] == "output_entropy")
    assert (entropy["n_reference"], entropy["verdict"]) == (0, "quiet")


def test_cumulative_checks_spend_less_each_time_and_say_so(ws):
    rng = np.random.default_rng(7)
    ws.journal.append(list(decisions(rng, 0, 100)))
    levels = []
    for _ in range(3):
        window = room.check(ws, "prod", windows=room.Windows(cumulative=True), actor="operator")
        levels.append(window.check["alpha"])
    assert levels == pytest.approx([0.05 / 2, 0.05 / 6, 0.05 / 12])
    assert "ever" in window.check["bound"]
    assert "add up" in room.check(ws, "prod", actor="operator").check["bound"]


def test_other_aliases_do_not_count(ws):
    rng = np.random.default_rng(2)
    ws.journal.append([*decisions(rng, 0, 40), *decisions(rng, 40, 200, blocked=0.9, endpoint="staging")])
    window = room.check(ws, "prod", actor="operator")
    assert window.verdict == "too_little_data"
    assert (window.reference["n"], window.current["n"]) == (20, 20)
    assert window.signals == []
    assert any("30 requests" in line for line in room.describe(window))


def test_an_alias_without_traffic_is_too_little_data(ws):
    window = room.check(ws, "nobody", actor="operator")
    assert window.verdict == "too_little_data"
    assert room.describe(window)


def test_since_sets_the_border(ws):
    rng = np.random.default_rng(3)
    ws.journal.append(list(decisions(rng, 0, 50)))
    past = room.check(ws, "prod", windows=room.Windows("2001-01-01T00:00:00Z"), actor="operator")
    assert (past.reference["n"], past.current["n"]) == (0, 50)
    future = room.check(ws, "prod", windows=room.Windows("2999-12-31"), actor="operator")
    assert (future.reference["n"], future.current["n"]) == (50, 0)


@pytest.mark.parametrize("since", ["yesterday", "2026-13", "2026-01-01 10:00", "2026-01-01T10:00:00+02:00"])
def test_since_must_be_utc(ws, since):
    with pytest.raises(SpecError, match="UTC"):
        room.check(ws, "prod", windows=room.Windows(since), actor="operator")


def test_every_verdict_has_its_exit_code():
    assert room.EXIT_CODES == {"quiet": 0, "drift": 1, "too_little_data": 3}


def test_signals_leave_out_latency_and_answers_never_given():
    row = {
        "action": "allow",
        "rules": "[]",
        "finish_reason": "stop",
        "input_chars": 5,
        "output_chars": 7,
        "latency_ms": 3,
    }
    stopped = {**row, "action": "block", "rules": json.dumps(["x"]), "output_chars": 0}
    signals = {signal.name: signal for signal in read_signals([row, row], [stopped, row, stopped, stopped])}
    told = {"refused", "policy_hit", "truncated", "failed", "rule:x", "output_chars", "input_chars"}
    assert set(signals) == told
    assert signals["refused"].current == (1.0, 0.0, 1.0, 1.0)
    assert (signals["output_chars"].current, signals["output_chars"].places) == ((7.0,), (1,))
    assert not signals["truncated"].varies


@pytest.mark.slow
def test_evidently_draws_log_and_canaries_and_the_page_loads_nothing(ws, tmp_path):
    import html
    import re

    rng = np.random.default_rng(4)
    ws.journal.append([*decisions(rng, 0, 60), *decisions(rng, 60, 60, length=200)])
    file = tmp_path / "deep" / "drift.html"
    said = [[Asked(f"{word} it is. That is all, number {n}.", "stop") for n in range(6)] for word in ("Yes", "No")]
    replays = (Replay("prod", "", "s", {"c": said[0]}), Replay("prod", "", "s", {"c": said[1]}))
    window = room.check(ws, "prod", replays=replays, actor="operator", html=file)
    page = html.unescape(file.read_text(encoding="utf-8"))
    assert "output_chars" in page
    assert "canary_sentences" in page
    assert "That is all" not in page
    assert not re.search(r"<(?:script|img|iframe|source)[^>]+src=[\"']?https?:|<link[^>]+href=[\"']?https?:", page)
    assert ws.artifacts.read_bytes(window.html) == file.read_bytes()


def test_checks_of_mixed_signals_hardly_ever_alarm_when_nothing_changes():
    """Nominal 5 % over all signals of a log; a reduced run of benchmarks/drift.py."""
    rng, runs = np.random.default_rng(11), 12
    alarms = 0
    for run in range(runs):
        rows = [body for _, _, body, _ in decisions(rng, 1000 * run, 240)]
        rows = [{**row, "ts": ""} for row in rows]
        found = room.judge(read_signals(rows[:120], rows[120:]), rows[120:], 0.05, lambda *_: None)
        alarms += any(finding["verdict"] == "drift" for finding in found)
    assert alarms <= runs * 0.05 + 2 * (runs * 0.05 * 0.95) ** 0.5


def test_a_check_of_canaries_alone_spends_too(ws):
    answers = {"c": [Asked("yes", "stop"), Asked("no", "stop")]}
    replays = (Replay("prod", "", "s", answers), Replay("prod", "", "s", answers))
    cumulative = room.Windows(cumulative=True)
    first = room.check(ws, "prod", windows=cumulative, replays=(None, replays[1]), actor="operator")
    assert (first.verdict, first.canaries["verdict"]) == ("too_little_data", "reference")
    numbers = [room.check(ws, "prod", windows=cumulative, replays=replays, actor="operator").check["number"]
               for _ in range(3)]  # fmt: skip
    assert numbers == [1, 2, 3]
