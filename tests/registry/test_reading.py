"""A projection file kept open for a block: one opening for many queries, and never an older answer."""

import threading

import pytest

from registry import store
from registry.workspace import Workspace


@pytest.fixture
def ws(tmp_path):
    made = Workspace.create(tmp_path / "ws")
    yield made
    made.close()


@pytest.fixture
def opened(monkeypatch):
    """Count how often a projection file is opened."""
    real, paths = store.opened, []

    def opened(path, **named):
        paths.append(path)
        return real(path, **named)

    monkeypatch.setattr(store, "opened", opened)
    return paths


def count(ws):
    return ws.store.query("SELECT count(*) AS n FROM event WHERE kind = 'note.added'")[0]["n"]


def test_many_queries_open_the_file_once(ws, opened):
    ws.store.sync()
    opened.clear()
    with ws.store.reading(), ws.store.reading():
        assert [count(ws) for _ in range(5)] == [0] * 5
    assert len(opened) == 1
    assert [count(ws) for _ in range(2)] == [0, 0]
    assert len(opened) == 3


def test_what_is_recorded_in_the_block_is_seen_in_it(ws):
    with ws.store.reading():
        for number in range(1, 6):
            ws.record("note.added", "n", {"n": number}, actor="operator")
            assert count(ws) == number
        assert ws.store.size() == len(ws.store.leaves())


def test_what_another_process_records_is_seen_in_it(ws):
    other = Workspace.open(ws.root)
    with ws.store.reading():
        for number in range(1, 6):
            other.record("note.added", "n", {"n": number}, actor="operator")
            other.store.sync()
            assert count(ws) == number
    other.close()


def test_writers_go_on_while_a_file_is_kept_open(ws):
    other = Workspace.open(ws.root, {"lock_wait_s": "5"})
    with ws.store.reading():
        assert count(ws) == 0
        for number in range(1, 8):
            other.record("note.added", "n", {"n": number}, actor="operator")
            assert count(other) == number
    assert count(ws) == 7
    other.close()


def test_a_block_is_its_threads_own(ws, opened):
    ws.store.sync()
    opened.clear()
    found = []
    with ws.store.reading():
        count(ws)
        thread = threading.Thread(target=lambda: found.append(count(ws)))
        thread.start()
        thread.join(20)
    assert (found, len(opened)) == ([0], 2)


def test_a_block_that_fails_lets_go(ws):
    def fail():
        with ws.store.reading():
            raise ZeroDivisionError(count(ws))

    with pytest.raises(ZeroDivisionError):
        fail()
    ws.store.rebuild()
    assert count(ws) == 0
