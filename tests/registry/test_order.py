"""`order.log`: one order of all records, without DuckDB; damage to it is named."""

import os
import shutil
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Tampered
from registry.order import last_mark, read_order
from tests.registry.bare_store import bare, counted, fill


def test_order_needs_no_projection_and_names_all_segments_with_one_sync(tmp_path, monkeypatch):
    one, two = bare(tmp_path), bare(tmp_path)
    fill(one, 3)
    fill(two, 2)
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd))
    )
    one.order()
    assert synced == ["000002.seg", "order.log"]
    monkeypatch.undo()
    assert one.current is None
    entries = read_order(tmp_path / "journal" / "order.log")
    assert [entry["segment"] for entry in entries] == ["000001", "000002"]
    one.order()
    assert read_order(tmp_path / "journal" / "order.log") == entries
    assert counted(one) == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:1], b"garbage\n", *lines[1:]], "is damaged at byte"),
        (lambda lines: [*lines, lines[-1]], "overlaps"),
        (lambda lines: [lines[0], *lines[2:]], "leaves a gap"),
    ],
)
def test_an_order_that_was_changed_is_named_on_rebuild(tmp_path, change, says):
    store = bare(tmp_path)
    for _ in range(3):
        fill(store, 2)
        store.order()
    path = tmp_path / "journal" / "order.log"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(Tampered, match=f"`order.log`.*{says}"):
        bare(tmp_path).rebuild()


@pytest.mark.parametrize("left", [0, 1])
def test_an_order_cut_below_what_was_ingested_is_named(tmp_path, left):
    store = bare(tmp_path)
    for _ in range(3):
        fill(store, 2)
        store.sync()
    path = tmp_path / "journal" / "order.log"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    fill(store, 1)
    with pytest.raises(Tampered, match=r"`order.log` is shorter"):
        bare(tmp_path).sync()
    path.unlink()
    with pytest.raises(Tampered, match=r"`order.log` is missing"):
        bare(tmp_path).sync()


def test_a_segment_of_another_workspace_is_not_ingested(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for root in (ours, theirs):
        root.mkdir()
    other = bare(theirs)
    other.journal.workspace_id = "another"
    fill(other, 2)
    store = bare(ours)
    fill(store, 2)
    shutil.copy(theirs / "journal" / "000001.seg", ours / "journal" / "000002.seg")
    with pytest.raises(Tampered, match="`000002.seg` belongs to another workspace"):
        store.sync()
    shutil.copy(ours / "journal" / "000001.seg", ours / "journal" / "000002.seg")
    with pytest.raises(Tampered, match="`000002.seg` is a copy of segment `000001`"):
        store.sync()


def test_a_missing_segment_is_named(tmp_path):
    store = bare(tmp_path)
    fill(store, 2)
    store.sync()
    store.journal.segments()[0].unlink()
    with pytest.raises(Tampered, match="`000001.seg` is missing"):
        store.sync()


def test_order_log_leaves_out_an_unfinished_last_line(tmp_path):
    path = tmp_path / "order.log"
    path.write_bytes(b'{"segment":"000001","from":0,"to":9}\n{"segment":"0000')
    assert read_order(path) == [{"segment": "000001", "from": 0, "to": 9}]
    assert last_mark(path, "000001").end == 9


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{}", "the line is no batch"),
        (b"", "the line is no batch"),
        (b'{"segment":"000001","from":8,"to":20}', "overlaps byte 9"),
        (b'{"segment":"000001","from":10,"to":20}', "leaves a gap after byte 9"),
        (b'{"segment":"000001","from":9,"to":9}', "says nothing after byte 9"),
        (b'{"segment":"000002","from":3,"to":9}', "leaves a gap after byte 0"),
    ],
)
def test_a_damaged_order_log_is_named_with_its_byte(tmp_path, line, says):
    path = tmp_path / "order.log"
    first = b'{"segment":"000001","from":0,"to":9}\n'
    path.write_bytes(first + line + b"\n" + first)
    with pytest.raises(Tampered, match=f"`order.log` is damaged at byte {len(first)}: the line {says}|{says}"):
        read_order(path)


@given(sizes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 90)), max_size=40), torn=st.booleans())
@settings(max_examples=40)
def test_the_newest_line_of_a_segment_is_found_from_the_end(tmp_path_factory, sizes, torn):
    path = tmp_path_factory.mktemp("order") / "order.log"
    ends, lines = {}, []
    for name, size in sizes:
        start = ends.get(name, 0)
        ends[name] = start + size
        lines.append(orjson.dumps({"segment": name, "from": start, "to": ends[name], "fill": "x" * 9000}) + b"\n")
    path.write_bytes(b"".join(lines) + (b'{"segment":"a","from":0,"to":99999' if torn else b""))
    assert {name: last_mark(path, name).end for name in ends} == ends
    assert last_mark(path, "d").end == 0
