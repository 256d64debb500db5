"""Two projection files in turn: no reader loses its rows, nobody waits for a reader."""

import pytest

from tests.registry.bare_store import bare, counted, fill


def test_the_files_are_used_in_turn(tmp_path):
    store = bare(tmp_path)
    seen = []
    for _ in range(5):
        fill(store, 1)
        store.sync()
        seen.append(store.current.name)
    assert seen[1:3] == seen[3:] or seen[0:2] == seen[2:4]
    assert len(set(seen)) == 2
    assert len(list((tmp_path / "store").glob("*.duckdb"))) == 2


def test_a_slow_reader_keeps_its_rows_and_holds_nobody_up(tmp_path):
    store = bare(tmp_path)
    fill(store, 1)
    with store.reading():
        assert counted(store) == 1
        held = store.current
        for number in range(1, 5):
            fill(store, 1, number)
            bare(tmp_path).sync()
        assert held.exists(), "a file that is read is not taken away"
        assert store.current != held
        assert counted(store) == 5
    fill(store, 1)
    store.sync()
    fill(store, 1)
    store.sync()
    assert len(list((tmp_path / "store").glob("*.duckdb"))) == 2, "what nobody reads any more is dropped"


def test_a_standby_far_behind_is_replaced_by_a_copy(tmp_path):
    store = bare(tmp_path)
    fill(store, 1)
    store.sync()
    for start in range(0, 3000, 1000):
        fill(store, 1000, start, fill="x" * 400)
    store.sync()
    first = {path.name for path in (tmp_path / "store").glob("*.duckdb")}
    fill(store, 1)
    store.sync()
    assert store.current.name not in first
    assert counted(store) == 3002


def test_a_damaged_standby_is_replaced(tmp_path):
    store = bare(tmp_path)
    for number in range(3):
        fill(store, 1, number)
        store.sync()
    store.pair.path(store.pair.pointer().standby).write_bytes(b"not a database")
    fill(store, 1)
    assert counted(store) == 4


@pytest.mark.parametrize("content", [b"", b"{", b'{"current": 99}'])
def test_an_unreadable_pointer_costs_a_rebuild_only(tmp_path, content):
    store = bare(tmp_path)
    fill(store, 3)
    leaves = store.leaves()
    store.pair.pointer_path.write_bytes(content)
    assert bare(tmp_path).leaves() == leaves


def test_what_release_0_1_kept_in_the_store_is_dropped(tmp_path):
    store = bare(tmp_path)
    for name in ("hallmark.duckdb", "snapshot.duckdb", "ingested.json"):
        (tmp_path / "store" / name).write_bytes(b"old")
    fill(store, 1)
    store.sync()
    assert not (tmp_path / "store" / "snapshot.duckdb").exists()
