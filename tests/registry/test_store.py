"""The projection: exactly once, rebuildable to identical rows, locked against others."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import HallmarkError, Locked, Tampered
from registry.records import ModelVersion
from registry.workspace import Workspace
from tests.registry.bare_store import bare, counted, fill

TABLES = ("event", "asset", "edge", "alias_history", "approval", "gate_kpi", "sample_result", "gateway_decision")


@pytest.fixture
def ws(tmp_path):
    return Workspace.create(tmp_path / "ws")


def rows(ws):
    return {name: ws.store.query(f"SELECT * FROM {name} ORDER BY ALL") for name in TABLES}


def version(name):
    return ModelVersion(name, "sha256:" + "0" * 64, None, None, [], "Mistral", 1, {})


def test_every_record_is_ingested_exactly_once(ws):
    for number in range(3):
        ws.journal.append([("count", "s", {"n": number * 10 + i}, "me") for i in range(10)])
        ws.store.sync()
        ws.store.sync()
    found = ws.store.query("SELECT body FROM event WHERE kind = 'count' ORDER BY seq")
    assert [row["body"] for row in found] == ['{"n":%d}' % n for n in range(30)]


def test_rebuild_gives_identical_rows_in_identical_order(ws):
    ws.register(version("a"), actor="t", name="a", parents=[("base", "x")])
    other = subprocess.run(
        [sys.executable, "-c", SECOND_WRITER, str(ws.root)], check=True, capture_output=True, text=True
    )
    ws.register(version("b"), actor="t", name="a")
    before = rows(ws)
    assert ws.store.rebuild() == len(before["event"])
    assert rows(ws) == before
    assert "000002" in {row["segment"] for row in before["event"]}, other.stderr


SECOND_WRITER = """
import sys
from pathlib import Path
from registry.workspace import Workspace
ws = Workspace.open(Path(sys.argv[1]))
ws.record("other", "s", {}, actor="me")
ws.store.sync()
"""


def test_a_batch_promised_but_not_committed_is_ingested_first(ws):
    ws.store.sync()
    ws.record("late", "s", {}, actor="me")
    path = ws.journal.segments()[0]
    start = ws.store.query("SELECT 1")
    assert start
    ws.record("later", "s", {}, actor="me")
    size = path.stat().st_size
    upto = ws.store.pair.pointer().progress.marks["000001"].end
    with (ws.journal.root / "order.log").open("a") as log:
        log.write('{"segment":"000001","from":%d,"to":%d}\n{"seg' % (upto, size))
    assert ws.store.query("SELECT count(*) AS n FROM event WHERE kind IN ('late', 'later')") == [{"n": 2}]
    before = rows(ws)
    ws.store.rebuild()
    assert rows(ws) == before


def test_a_shortened_segment_is_refused(ws):
    ws.record("one", "s", {}, actor="me")
    ws.store.sync()
    path = ws.journal.segments()[0]
    path.write_bytes(path.read_bytes()[:-20])
    ws.store.current.unlink()
    with pytest.raises(Tampered, match="shorter"):
        ws.store.query("SELECT 1")


def hold(root, ready, done):
    with Workspace.open(root).store.lock():
        ready.set()
        done.wait(30)


def test_a_lock_held_elsewhere_is_named(ws):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(ws.root, ready, done))
    process.start()
    try:
        assert ready.wait(30)
        ws.record("one", "s", {}, actor="me")
        ws.store.wait = 0.2
        with pytest.raises(Locked, match=f"pid {process.pid}"):
            ws.store.query("SELECT 1")
    finally:
        done.set()
        process.join()
    assert ws.store.query("SELECT count(*) AS n FROM event WHERE kind = 'one'") == [{"n": 1}]


def test_a_damaged_projection_says_how_to_mend_it(ws):
    ws.store.sync()
    ws.store.current.write_bytes(b"not a database")
    with pytest.raises(HallmarkError) as caught:
        ws.store.query("SELECT 1")
    assert caught.value.hint == "run `hallmark store rebuild`"
    ws.store.rebuild()
    assert ws.store.query("SELECT 1 AS one") == [{"one": 1}]


def register_many(root, name, barrier):
    ws = Workspace.open(root)
    barrier.wait()
    for number in range(5):
        ws.register(version(f"{name}-{number}"), actor="t", name="same")


def test_processes_registering_at_once_get_distinct_numbers(ws):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=register_many, args=(ws.root, name, barrier)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(asset.number for asset in ws.assets("version")) == list(range(1, 11))


@pytest.fixture
def small_disk(tmp_path):
    """A workspace whose projection lies on a file system of its own, of four MiB."""
    place = tmp_path / "store"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_too_full_for_the_projection_loses_nothing(tmp_path, small_disk):
    store = bare(tmp_path)
    fill(store, 3)
    store.sync()
    for start in range(0, 16_000, 1000):  # far more than fits, and nothing that compresses
        fill(store, 1000, start, noise=os.urandom(300).hex())
        store.journal.append([("noise", os.urandom(300).hex(), {}, "me") for _ in range(1000)])
    with pytest.raises(HallmarkError, match="cannot write the projection") as caught:
        store.sync()
    assert "no record was lost" in caught.value.hint
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert counted(store) == 16_003
    assert store.rebuild() == store.size()


def test_a_store_that_cannot_be_written_can_still_be_read(tmp_path, small_disk):
    store = bare(tmp_path)
    fill(store, 3)
    store.sync()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert counted(bare(tmp_path)) == 3
    fill(store, 1)
    with pytest.raises(HallmarkError, match="cannot lock the store") as caught:
        counted(store)
    assert str(small_disk) in caught.value.hint


OLDER = Path(sys.prefix) / "duckdb-1.5"
CHILD = """
import json, sys
from pathlib import Path
import duckdb
from registry.artifacts import Artifacts
from registry.journal import Journal
from registry.store import Store
root = Path(sys.argv[1])
store = Store(root / "store", Journal(root / "journal", "w"), Artifacts(root / "objects"))
store.journal.append([("count", "s", {"n": n}, "child") for n in range(int(sys.argv[2]))])
if "rebuild" in sys.argv:
    store.rebuild()
with store.lock():
    newest = store.state().newest
print(json.dumps({"version": duckdb.__version__, "arrow": store.arrow("SELECT seq FROM event").num_rows,
                  "n": store.query("SELECT count(*) AS n FROM event")[0]["n"], "newest": newest,
                  "root": [peak.hex() for peak in store.frontier()[1]]}))
"""


@pytest.mark.parametrize("more", [[], ["rebuild"]])
def test_duckdb_1_5_reads_and_writes_the_same_store(tmp_path, more):
    if not OLDER.is_dir():
        pytest.skip("no DuckDB 1.5 lies in this environment's folder duckdb-1.5")
    ours = bare(tmp_path)
    fill(ours, 100)
    ours.sync()
    path = os.pathsep.join([str(OLDER), str(Path(__file__).resolve().parents[2])])
    for _ in range(2):
        done = subprocess.run([sys.executable, "-P", "-c", CHILD, str(tmp_path), "80", *more], check=True, text=True,
                              capture_output=True, env={**os.environ, "PYTHONPATH": path})  # fmt: skip
        said = json.loads(done.stdout)
        assert said["version"].startswith("1.5.")
        size, peaks = ours.frontier()
        assert (said["n"], said["arrow"], said["root"]) == (size, size, [peak.hex() for peak in peaks])
        fill(ours, 3)
        assert ours.size() == size + 3
    assert ours.rebuild() == ours.size()
