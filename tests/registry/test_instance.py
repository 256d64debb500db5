"""One DuckDB instance: files are shared by threads, left to others at once, and a fork starts anew."""

import os
import threading
import time

import duckdb
import pytest

from registry import instance


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "o'clock.duckdb"
    with duckdb.connect(str(path)) as made:
        made.execute("CREATE TABLE t AS SELECT range AS n FROM range(1000)")
    return path


def total(path, *, read_only=True):
    with instance.opened(path, read_only=read_only) as connection:
        return connection.execute("SELECT sum(n)::BIGINT FROM t").fetchone()[0]


def test_a_file_is_let_go_of_when_nobody_reads_it(file):
    assert total(file) == 499500
    with duckdb.connect(str(file)) as other:  # nothing of ours stands in the way
        other.execute("INSERT INTO t VALUES (500)")
    assert total(file) == 500000


def test_what_is_written_is_there_for_the_next_reader(file):
    with instance.opened(file, read_only=False) as connection:
        connection.execute("INSERT INTO t VALUES (500)")
    assert total(file) == 500000


def test_threads_share_a_file_and_temporary_tables_are_their_own(file):
    found, begin = [], threading.Barrier(4)

    def read(number):
        with instance.opened(file, read_only=True) as connection:
            begin.wait(20)
            connection.execute(f"CREATE TEMP TABLE mine AS SELECT {number} AS n")
            rows = connection.execute("SELECT count(t.n), any_value(m.n) FROM t, mine m").fetchone()
            found.append((number, *rows))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [(number, 1000, number) for number in range(4)]


def test_what_is_no_database_is_an_error_and_hurts_no_other(file, tmp_path):
    broken = tmp_path / "broken.duckdb"
    broken.write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(duckdb.Error):
        total(broken)
    assert total(file) == 499500


def test_an_error_in_a_query_lets_go_of_the_file(file):
    with pytest.raises(duckdb.CatalogException), instance.opened(file, read_only=True) as connection:
        connection.execute("SELECT * FROM missing")
    with duckdb.connect(str(file)) as other:
        assert other.execute("SELECT count(*) FROM t").fetchone() == (1000,)


def test_a_fatal_error_is_followed_by_a_new_instance(file):
    total(file)
    before = instance._instance
    with pytest.raises(duckdb.FatalException), instance.opened(file, read_only=True):
        raise duckdb.FatalException("the database was invalidated")
    assert total(file) == 499500
    assert instance._instance is not before


def test_a_forked_child_reads_and_ends(file):
    total(file)
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        code = 2
        try:
            code = 0 if total(file) == 499500 else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, 9)
    pytest.fail("the child hangs")
