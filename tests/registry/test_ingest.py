"""Ingestion: the log's tree, and every record once whatever happens in between."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.merkle import Frontier, leaf_hash
from registry.order import read_order
from registry.projection import extended
from registry.segment import read_segment
from tests.registry.bare_store import bare, fill


def test_leaves_and_tree_are_those_of_the_records(tmp_path):
    one, two = bare(tmp_path), bare(tmp_path)
    for number in range(4):
        fill(one, number + 1)
        fill(two, 70 * (number % 2))
        one.sync()
    leaves = one.leaves()
    path = tmp_path / "journal" / "order.log"
    payloads = [
        frame.payload
        for entry in read_order(path)
        for frame in read_segment(path.with_name(f"{entry['segment']}.seg"), entry["from"], stop=entry["to"])
    ]
    assert leaves == [leaf_hash(payload) for payload in payloads]
    tree = Frontier()
    tree.extend(leaves)
    assert one.frontier() == (tree.size, tree.peaks)
    assert one.size() == len(leaves)
    assert one.leaves(3, 8) == leaves[3:8]
    kept = one.frontier(), leaves
    assert one.rebuild() == len(leaves)
    assert (one.frontier(), one.leaves()) == kept


@given(first=st.integers(0, 70), added=st.lists(st.integers(0, 40), max_size=5))
def test_a_tree_extended_level_by_level_is_the_tree(first, added):
    slow, fast = Frontier(), Frontier()
    number = 0
    for count in [first, *added]:
        leaves = [leaf_hash(b"%d" % n) for n in range(number, number + count)]
        slow.extend(leaves)
        fast = extended(fast, leaves)
        number += count
        assert (fast.size, fast.peaks, fast.root()) == (slow.size, slow.peaks, slow.root())


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["append", "many", "sync", "order", "restart", "torn", "lost", "flip"])
    ),
    max_size=14,
)


@settings(max_examples=12)
@given(steps=STEPS)
def test_any_interleaving_gives_each_record_once_and_rebuilds_identically(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("laws")
    stores = [bare(root) for _ in range(3)]
    written = []
    for who, step in steps:
        store = stores[who]
        if step in ("append", "many"):
            count = 1 if step == "append" else 70
            fill(store, count, len(written))
            written += range(len(written), len(written) + count)
        elif step == "restart":
            store.journal.close()
            stores[who] = bare(root)
        elif step == "torn":  # a process died half-way through a write, and another before it
            for path in store.journal.segments():
                if not any(each.journal.durable(path.stem) for each in stores):
                    with path.open("ab") as file:
                        file.write(b"\x40\x00\x00\x00half a frame")
        elif step == "lost":
            (root / "store" / "current").unlink(missing_ok=True)
        elif step == "flip" and store.current:
            store.current.with_name("projection-77.duckdb").write_bytes(b"an ingest that was killed")
        else:
            getattr(store, step, lambda: None)()
    found = [row["n"] for row in stores[0].query(
        "SELECT CAST(body->>'n' AS INTEGER) AS n FROM event WHERE kind = 'count' ORDER BY seq")]  # fmt: skip
    assert sorted(found) == written
    names = ("event", "asset")
    before = [stores[1].query(f"SELECT * FROM {name} ORDER BY ALL") for name in names], stores[1].frontier()
    assert stores[2].rebuild() == stores[2].size()
    assert ([stores[1].query(f"SELECT * FROM {name} ORDER BY ALL") for name in names], stores[1].frontier()) == before
    for store in stores:
        store.journal.close()


KILLED = """
import sys
from pathlib import Path
from registry.artifacts import Artifacts
from registry.journal import Journal
from registry.store import Store
root = Path(sys.argv[1])
store = Store(root / "store", Journal(root / "journal", "w"), Artifacts(root / "objects"))
number = 0
while True:
    event = store.journal.append([("count", "s", {"n": number}, "me")])[0]
    print(event.segment, event.pos, flush=True)
    store.sync()
    number += 1
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_working_store(tmp_path):
    acknowledged = set()
    bare(tmp_path)
    for moment in range(6):
        children = [
            subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        first = [child.stdout.readline() for child in children]
        time.sleep(0.05 + 0.07 * moment)
        for child, line in zip(children, first, strict=True):
            child.kill()
            lines = [line, *child.stdout.read().splitlines(keepends=True)]
            acknowledged |= {tuple(line.split()) for line in lines if line.endswith("\n")}
            child.wait()
            child.stdout.close()
        store = bare(tmp_path)
        rows = store.query("SELECT segment, pos FROM event")
        kept = {(row["segment"], str(row["pos"])) for row in rows}
        assert len(rows) == len(kept), "no record twice"
        assert acknowledged <= kept
    before = store.query("SELECT * FROM event ORDER BY seq"), store.frontier()
    store.rebuild()
    assert (store.query("SELECT * FROM event ORDER BY seq"), store.frontier()) == before
