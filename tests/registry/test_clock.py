"""Trusted time: the later of the clock and the newest record; a clock that runs behind is refused."""

from datetime import UTC, datetime, timedelta

import pytest

from registry import clock
from registry.errors import Refused
from registry.workspace import Workspace


@pytest.fixture
def ws(tmp_path):
    made = Workspace.create(tmp_path / "ws")
    yield made
    made.close()


def set_clock(monkeypatch, offset):
    """Run on a clock that is `offset` away from the true one."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + offset

    monkeypatch.setattr(clock, "datetime", Clock)


def test_it_is_the_clock_while_the_clock_goes_on(ws):
    before = datetime.now(UTC)
    assert before <= clock.trusted_now(ws) <= datetime.now(UTC)


def test_a_clock_a_little_behind_is_carried_by_the_newest_record(ws, monkeypatch):
    ts = ws.record("note.added", "n", {}, actor="operator").ts
    set_clock(monkeypatch, timedelta(minutes=-4))
    assert clock.trusted_now(ws) == datetime.fromisoformat(ts)


def test_a_clock_far_behind_is_refused_and_both_times_are_named(ws, monkeypatch):
    ts = ws.record("note.added", "n", {}, actor="operator").ts
    set_clock(monkeypatch, timedelta(days=-40))
    with pytest.raises(Refused, match=f"the clock says 20.*, but the newest record is of {ts[:19]}") as caught:
        clock.trusted_now(ws)
    assert "set the clock right" in caught.value.hint


def test_a_clock_ahead_is_believed(ws, monkeypatch):
    set_clock(monkeypatch, timedelta(days=400))
    assert clock.trusted_now(ws) > datetime.now(UTC) + timedelta(days=399)
