"""`log verify`: every edit, deletion and reordering is named; a cut is found back to what is held outside."""

import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance import log, proofs
from registry import checkpoints, merkle, notes
from registry.errors import HallmarkError, NotFound, SpecError, Tampered
from registry.journal import Journal
from registry.workspace import Workspace

PROPERTY = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOW_PROPERTY = settings(PROPERTY, max_examples=10)


def examine(ws, *held, rows=False, **more):
    """Verify the log; the projection's rows, which take the longest, only where a test is about them."""
    return log.examine(ws, *held, rows=rows, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A log of two segments in several batches, with checkpoints recorded in between."""
    root = tmp_path_factory.mktemp("made") / "ws"
    ws = Workspace.create(root)
    other = Journal(root / "journal", ws.settings.workspace_id)
    for step in range(3):
        for journal in (ws.journal, other):
            journal.append([("count", f"s{n}", {"n": n, "step": step}, "me") for n in range(4)])
        checkpoints.sign(ws, "operator")
    ws.journal.append([("count", "last", {}, "me")])
    ws.store.sync()
    for journal in (ws.journal, other):
        journal.close()
    return root


@pytest.fixture
def copy(made, tmp_path):
    """Make a copy of that log; the same place is used again for every example of a property."""

    def fresh():
        shutil.rmtree(tmp_path / "ws", ignore_errors=True)
        shutil.copytree(made, tmp_path / "ws")
        return Workspace.open(tmp_path / "ws")

    return fresh


def payloads(path):
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:4], "little")
        found.append(data[8 : 8 + length])
        data = data[8 + length :]
    return found


def write(path, records):
    """Write records with correct lengths and checksums."""
    path.write_bytes(b"".join(
        len(one).to_bytes(4, "little") + zlib.crc32(one).to_bytes(4, "little") + one for one in records
    ))  # fmt: skip


def rechained(records):
    """Give every record the position and hash that make the chain whole again."""
    chain, prev = [], "0" * 64
    for pos, record in enumerate(records):
        value = json.loads(record) | {"pos": pos, "prev": prev}
        chain.append(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
        prev = hashlib.sha256(chain[-1]).hexdigest()
    return chain


def lines_of(ws):
    return [json.loads(line) for line in (ws.journal.root / "order.log").read_text().splitlines()]


def forget(ws):
    """Take the projection away, so that it is made again from what the journal says now."""
    ws.close()
    shutil.rmtree(ws.root / "store")
    (ws.root / "store").mkdir()
    return Workspace.open(ws.root)


def reorder(ws, lines):
    (ws.journal.root / "order.log").write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    )


def cut_to(ws, size):
    """Cut segments, `order.log` and projection back to the first `size` records, leaving no trace."""
    kept, seq = [], 0
    ends = {}
    for line in lines_of(ws):
        place = line["from"]
        data = (ws.journal.root / f"{line['segment']}.seg").read_bytes()
        while place < line["to"] and seq < size:
            place += 8 + int.from_bytes(data[place : place + 4], "little")
            seq += 1
        if place > line["from"]:
            ends[line["segment"]] = place
            whole = place == line["to"]
            kept.append(line if whole else {"segment": line["segment"], "from": line["from"], "to": place})
    for path in ws.journal.segments():
        path.write_bytes(path.read_bytes()[: ends.get(path.stem, 0)])
        if not path.stat().st_size:
            path.unlink()
    reorder(ws, kept)
    return forget(ws)


def rewrite(ws, changes):
    """Change records (by number) and make the whole journal consistent again, as its owner without keys could."""
    moved, rows = {}, ws.store.query("SELECT seq, segment, pos FROM event")
    for path in ws.journal.segments():
        records = payloads(path)
        before = boundaries(records)
        for row in rows:
            if row["segment"] == path.stem and row["seq"] in changes:
                records[row["pos"]] = changes[row["seq"]](records[row["pos"]])
        chain = rechained(records)
        moved |= {(path.stem, old): new for old, new in zip(before, boundaries(chain), strict=True)}
        write(path, chain)
    reorder(ws, [
        {"segment": line["segment"], **{end: moved[line["segment"], line[end]] for end in ("from", "to")}}
        for line in lines_of(ws)
    ])  # fmt: skip
    return forget(ws)


def boundaries(records):
    ends = [0]
    for record in records:
        ends.append(ends[-1] + 8 + len(record))
    return ends


def altered(record):
    value = json.loads(record)
    value["actor"] += "x"
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def nothing(record):
    value = json.loads(record) | {"kind": "nothing.happened"}
    value.pop("sig")
    return json.dumps(value).encode()


def note_of(ws, path):
    """Sign a checkpoint and keep it outside; return it."""
    held = checkpoints.draft(ws, "operator")
    path.write_text(held.note)
    return held


# ---- what holds ------------------------------------------------------------------------------------------------


def test_an_untouched_log_verifies_and_says_what_is_not_anchored(copy, tmp_path):
    ws = copy()
    found = examine(ws)
    assert (found.problems, found.first_bad) == ((), None)
    assert found.checkpoints == 3
    assert (found.anchored, found.unanchored) == (0, found.size)
    assert "a cut end would not show" in found.checked[-1]
    held = note_of(ws, tmp_path / "held.txt")
    ws.journal.append([("count", "s", {}, "me")] * 3)
    copied = shutil.copytree(ws.journal.root, tmp_path / "copied")
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps([proofs.receipt_of(ws, "3"), proofs.receipt_of(ws, "10")]))
    ws.journal.append([("count", "s", {}, "me")])
    found = examine(ws, [str(tmp_path / "held.txt")], [receipt], [Path(copied)])
    assert found.problems == ()
    assert (found.anchored, found.unanchored) == (held.size, 4)
    assert f"{held.size} of {held.size + 4} records anchored" in found.checked[4]
    assert "receipts: 2" in found.checked[5]
    assert "copies of the journal: 1" in found.checked[6]
    assert log.verify_log(ws).exit_code == 0


@pytest.mark.slow
def test_records_that_come_meanwhile_are_no_damage(copy):
    ws = copy()
    stop = threading.Event()

    def keep_writing():
        other = Workspace.open(ws.root)
        while not stop.is_set():
            other.record("count", "meanwhile", {}, actor="me")
            other.store.sync()
            time.sleep(0.002)
        other.close()

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        found = [examine(ws, rows=True) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert [one.problems for one in found] == [()] * 3
    assert found[-1].size > found[0].size


def test_a_log_of_release_0_1_verifies(tmp_path):
    root = shutil.copytree(Path(__file__).parent.parent / "fixtures" / "journals" / "0.1", tmp_path / "ws")
    (root / "store").mkdir()
    found = examine(Workspace.open(root), rows=True)
    assert found.problems == ()
    assert found.size > 0


def test_an_unfinished_write_is_no_damage(copy):
    ws = copy()
    path = ws.journal.segments()[0]
    ws.journal.append([("count", "unfinished", {}, "me")])
    ws.journal.close()
    path.write_bytes(path.read_bytes()[:-5])
    found = examine(ws, rows=True)
    assert found.problems == ()
    assert "never acknowledged" in " ".join(found.checked)


# ---- edited, deleted, moved ------------------------------------------------------------------------------------


def of_segment(ws, path, pos):
    return ws.store.query("SELECT seq FROM event WHERE segment = ? AND pos = ?", [path.stem, pos])[0]["seq"]


@PROPERTY
@given(data=st.data())
def test_a_flipped_bit_is_found_in_its_record(copy, data):
    ws = copy()
    path = data.draw(st.sampled_from(ws.journal.segments()))
    raw, ends = bytearray(path.read_bytes()), boundaries(payloads(path))
    at = data.draw(st.integers(0, len(raw) - 1))
    pos = sum(end <= at for end in ends) - 1
    seq = of_segment(ws, path, pos)
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    found = examine(ws)
    assert (found.first_bad.segment, found.first_bad.pos, found.first_bad.byte) == (path.stem, pos, ends[pos])
    assert found.first_bad.seq == seq
    assert found.problems[0].startswith(f"journal segment `{path.name}` is broken at byte {ends[pos]}")
    assert "do not match their checksum" in found.problems[0]


@PROPERTY
@given(data=st.data())
def test_an_edited_record_is_found_though_its_checksum_was_mended(copy, data):
    ws = copy()
    path = data.draw(st.sampled_from(ws.journal.segments()))
    records = payloads(path)
    pos = data.draw(st.integers(0, len(records) - 1))
    seq, ends = of_segment(ws, path, pos), boundaries(records)
    records[pos] = data.draw(st.sampled_from([altered, lambda one: one.replace(b'"me"', b'"ME"', 1) + b" "]))(
        records[pos]
    )
    write(path, records)
    found = examine(ws)
    assert (found.first_bad.segment, found.first_bad.pos, found.first_bad.byte) == (path.stem, pos, ends[pos])
    assert found.first_bad.seq == seq


@PROPERTY
@given(data=st.data())
def test_a_deleted_record_is_found(copy, data):
    ws = copy()
    path = data.draw(st.sampled_from(ws.journal.segments()))
    records = payloads(path)
    pos = data.draw(st.integers(0, len(records) - 1))
    del records[pos]
    write(path, records)
    found = examine(ws)
    assert (found.first_bad.segment, found.first_bad.pos) == (path.stem, pos)
    assert found.problems


@PROPERTY
@given(data=st.data())
def test_reordered_records_are_found(copy, data):
    ws = copy()
    path = data.draw(st.sampled_from(ws.journal.segments()))
    records = payloads(path)
    one, two = sorted(data.draw(st.lists(st.integers(0, len(records) - 1), min_size=2, max_size=2, unique=True)))
    records[one], records[two] = records[two], records[one]
    write(path, records)
    found = examine(ws)
    assert (found.first_bad.segment, found.first_bad.pos) == (path.stem, one)


@PROPERTY
@given(data=st.data())
def test_an_inserted_record_is_found(copy, data):
    ws = copy()
    path = data.draw(st.sampled_from(ws.journal.segments()))
    records = payloads(path)
    pos = data.draw(st.integers(0, len(records) - 1))
    records.insert(pos, records[data.draw(st.integers(0, len(records) - 1))])
    write(path, records)
    found = examine(ws)
    assert found.first_bad.segment == path.stem
    assert found.first_bad.pos in (pos, pos + 1)  # a record copied to its own place is found as the one after it


@pytest.mark.slow
@SLOW_PROPERTY
@given(data=st.data())
def test_arbitrary_damage_is_always_found(copy, data):
    ws = copy()
    path = data.draw(st.sampled_from([*ws.journal.segments(), ws.journal.root / "order.log"]))
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw) - 1))
    stop = data.draw(st.integers(start, len(raw)))
    damaged = raw[:start] + data.draw(st.binary(max_size=40)) + raw[stop:]
    path.write_bytes(damaged)
    found = examine(ws)
    assert bool(found.problems) == (damaged != raw), (start, stop)


def test_a_segment_that_lost_its_end_is_named_with_what_can_restore_it(copy, tmp_path):
    ws = copy()
    path = ws.journal.segments()[1]
    copied = Path(shutil.copytree(ws.journal.root, tmp_path / "copied"))
    row = ws.store.query("SELECT seq, pos FROM event WHERE segment = '000002' ORDER BY seq DESC LIMIT 1")[0]
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(proofs.receipt_of(ws, str(row["seq"]))))
    ends = boundaries(payloads(path))
    path.write_bytes(path.read_bytes()[:-7])
    found = examine(ws, receipts=[receipt], copies=[copied])
    lost = ends[-1] - ends[-2]
    assert (found.first_bad.byte, found.first_bad.pos, found.first_bad.seq) == (ends[-2], row["pos"], row["seq"])
    assert f"the segment lost its last {lost} ingested bytes" in found.problems[0]
    assert any("still has this record" in problem for problem in found.problems)
    assert any("which cannot be read" in problem for problem in found.problems)
    assert found.checked == (f"{found.size + found.waiting} records in 2 segments could be read",)


def test_a_segment_that_is_gone_or_foreign_is_named(copy, tmp_path):
    ws = copy()
    first, second = ws.journal.segments()
    data = second.read_bytes()
    second.unlink()
    assert "journal segment `000002.seg` is missing" in examine(ws).problems
    shutil.copyfile(first, second)
    assert "belongs to segment `000001`" in examine(ws).problems[0]
    foreign = Workspace.create(tmp_path / "foreign")
    foreign.store.sync()
    shutil.copyfile(foreign.journal.segments()[0], second.with_name("000003.seg"))
    second.write_bytes(data)
    assert f"of workspace `{foreign.settings.workspace_id[:12]}`" in examine(ws).problems[0]
    second.with_name("000003.seg").rename(second.with_name("000004.seg"))
    assert "journal segment `000003.seg` is missing" in examine(ws).problems


def test_a_damaged_order_is_found(copy):
    ws = copy()
    lines = lines_of(ws)
    moved = next(at for at, line in enumerate(lines[1:], 1) if line["segment"] != lines[at - 1]["segment"])
    swapped = [*lines[: moved - 1], lines[moved], lines[moved - 1], *lines[moved + 1 :]]
    for broken in (lines[1:], [*lines[:2], *lines[3:]], [lines[0], *lines], swapped, [{"segment": "000001"}, *lines]):
        reorder(ws, broken)
        assert examine(ws).problems, broken
    reorder(ws, [*lines[:-1], {**lines[-1], "to": lines[-1]["to"] - 1}])
    assert examine(ws).problems
    reorder(ws, lines)
    assert examine(ws).problems == ()


@pytest.mark.parametrize(("change", "message"), [
    ("UPDATE event SET hash = 'f' WHERE seq = 7", "the projection has another record"),
    ("UPDATE event SET leaf = unhex(repeat('00', 32)) WHERE seq = 7", "has other leaves or another tree"),
    ("UPDATE event SET body = '{}' WHERE seq = 7", "the projection's table `event` says something else"),
    ("INSERT INTO approval SELECT 'c', 'd', 'p', 'k', ts, '', '{}', 7 FROM event WHERE seq = 7", "table `approval`"),
    ("DELETE FROM event WHERE seq = 7", "the projection has"),
])  # fmt: skip
def test_an_altered_projection_is_found(copy, change, message):
    import duckdb

    ws = copy()
    ws.store.sync()
    for path in (ws.root / "store").glob("*.duckdb"):
        with duckdb.connect(str(path)) as connection:
            connection.execute(change)
    found = examine(ws, rows=True)
    assert message in found.problems[0]
    assert found.first_bad.seq in (0, 7)
    ws.store.rebuild()
    assert examine(ws, rows=True).problems == ()


@pytest.mark.parametrize(("change", "message"), [
    (lambda record: record | {"subject": "other"}, "it is not what `operator` signed"),
    (lambda record: record | {"actor": "auditor"}, "it is not signed by `auditor`"),
    (lambda record: record | {"sig": record["sig"] | {"keyid": "0"}}, "it is not signed by `operator`"),
    (lambda record: record | {"sig": record["sig"] | {"sig": record["sig"]["sig"][:-2]}}, "signature is malformed"),
    (lambda record: record | {"sig": {}}, "signature is malformed"),
])  # fmt: skip
def test_a_signed_record_written_anew_is_found_without_any_checkpoint(copy, change, message):
    ws = copy()
    seq = ws.store.size() + 2
    for subject in ("before", "signed", "after"):
        ws.record("thing.done", subject, {"n": 1.5}, actor="operator")
    ws = rewrite(ws, {seq: lambda record: json.dumps(change(json.loads(record))).encode()})
    found = examine(ws)
    assert message in found.problems[0]
    assert found.first_bad.seq == seq


def test_a_signed_record_that_stands_there_twice_is_found(copy):
    ws = copy()
    for _ in range(2):
        ws.record("thing.done", "s", {}, actor="operator")
    first, second = (json.loads(record) for record in payloads(ws.journal.segments()[0])[-2:])
    ws = rewrite(ws, {ws.store.size(): lambda _: json.dumps(second | {"sig": first["sig"]}).encode()})
    found = examine(ws)
    assert "it repeats the signature of an earlier record" in found.problems[0]
    assert found.first_bad.seq == found.size


# ---- written anew ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@SLOW_PROPERTY
@given(data=st.data())
def test_a_log_rewritten_as_a_whole_contradicts_its_own_checkpoints(copy, data):
    ws = copy()
    sizes = [one.size for one in checkpoints.recorded(ws)]
    seqs = [row["seq"] for row in ws.store.query(
        "SELECT seq FROM event WHERE kind = 'count' AND seq <= ? ORDER BY seq", [sizes[-1]])]  # fmt: skip
    seq = data.draw(st.sampled_from(seqs))
    ws = rewrite(ws, {seq: altered})
    found = examine(ws)
    size = next(size for size in sizes if size >= seq)
    last = max((other for other in sizes if other < seq), default=0)
    assert f"the recorded checkpoint over {size} records" in found.problems[0]
    assert "has another root" in found.problems[0]
    assert f"one of {last + 1} to {size}" in found.problems[0]
    assert found.first_bad.seq == last + 1


@pytest.mark.slow
@SLOW_PROPERTY
@given(data=st.data())
def test_a_log_rewritten_with_its_checkpoints_taken_out_contradicts_those_outside(copy, tmp_path, data):
    ws = copy()
    shutil.rmtree(tmp_path / "held", ignore_errors=True)
    (tmp_path / "held").mkdir()
    rows = ws.store.query("SELECT seq, body FROM event WHERE kind = 'checkpoint.signed' ORDER BY seq")
    for row in rows:
        note = json.loads(row["body"])["note"]
        (tmp_path / "held" / f"{row['seq']}.txt").write_text(note)
    sizes = [one.size for one in checkpoints.recorded(ws)]
    seq = data.draw(st.integers(2, sizes[-1]))
    changes = dict.fromkeys((row["seq"] for row in rows), nothing)
    ws = rewrite(ws, {seq: lambda one: one.replace(b'"ts":"2', b'"ts":"1')} | changes)
    assert examine(ws).problems == ()
    found = examine(ws, [str(tmp_path / "held")])
    size = next(size for size in sizes if size >= min(seq, rows[0]["seq"]))
    assert f"the outside checkpoint over {size} records" in found.problems[0]
    assert found.first_bad.seq == max((other for other in sizes if other < size), default=0) + 1


# ---- cut -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@SLOW_PROPERTY
@given(data=st.data())
def test_a_log_cut_without_trace_is_found_back_to_what_is_held_outside(copy, tmp_path, data):
    ws = copy()
    held = note_of(ws, tmp_path / "held.txt")
    ws.journal.append([("count", "later", {}, "me")] * 3)
    ws.store.sync()
    size = held.size + 3
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(proofs.receipt_of(ws, str(size - 1))))
    shutil.rmtree(tmp_path / "copied", ignore_errors=True)
    copied = Path(shutil.copytree(ws.journal.root, tmp_path / "copied"))
    kept = data.draw(st.integers(2, size))
    ws = cut_to(ws, kept)
    found = examine(ws, [str(tmp_path / "held.txt")])
    if kept < held.size:
        assert f"the journal was cut: a checkpoint over {held.size} records is held outside" in found.problems[-1]
        assert f"{kept} remain" in found.problems[-1]
    else:
        assert found.problems == ()
        assert (found.anchored, found.unanchored) == (held.size, kept - held.size)
    assert any("a receipt is held" in one for one in examine(ws, receipts=[receipt]).problems) == (kept < size - 1)
    assert bool(examine(ws, copies=[copied]).problems) == (kept < size)


def test_a_log_cut_and_continued_is_found(copy, tmp_path):
    ws = copy()
    note_of(ws, tmp_path / "held.txt")
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(proofs.receipt_of(ws, "25")))
    row = ws.store.query("SELECT segment, pos FROM event WHERE seq = 25")[0]
    copied = Path(shutil.copytree(ws.journal.root, tmp_path / "copied"))
    ws = cut_to(ws, 20)
    for _ in range(3):
        writer = Journal(ws.journal.root, ws.settings.workspace_id)
        ws.journal.append([("count", "instead", {}, "me")] * 10)
        writer.append([("count", "instead", {}, "me")] * 10)
        writer.close()
    assert examine(ws).problems == ()
    assert "the outside checkpoint over" in examine(ws, [str(tmp_path / "held.txt")]).problems[0]
    found = examine(ws, receipts=[receipt])
    assert "a receipt is held for another record here" in found.problems[0]
    assert (found.first_bad.segment, found.first_bad.pos) == (row["segment"], row["pos"])
    assert "has another record here" in examine(ws, copies=[copied]).problems[0]


def test_a_cut_log_is_held_against_an_endpoint_and_a_git_repository(copy, tmp_path):
    ws = copy()
    held = note_of(ws, tmp_path / "held.txt")
    bare = tmp_path / "kept.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    checkpoints.publish(ws, held, str(bare))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        places = [f"http://127.0.0.1:{server.server_port}/held.txt", f"{bare}#main"]
        assert [examine(ws, [place]).anchored for place in places] == [held.size] * 2
        ws = cut_to(ws, held.size - 1)
        for place in places:
            assert f"over {held.size} records is held outside (`{place}" in examine(ws, [place]).problems[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ---- what is held outside must hold itself ---------------------------------------------------------------------


def test_a_checkpoint_from_outside_that_does_not_hold_is_a_problem(copy, tmp_path):
    ws = copy()
    held = note_of(ws, tmp_path / "held.txt")
    text = held.note.split("\n\n")[0] + "\n"
    public = ws.keys.create("stranger")
    forged = tmp_path / "forged.txt"
    forged.write_text(notes.sign(text, f"{held.origin}/operator", public))
    assert "no known key signed" in examine(ws, [str(forged)]).problems[0]
    forged.write_text(held.note.replace(f"\n{held.size}\n", "\n1\n"))
    assert "does not verify" in examine(ws, [str(forged)]).problems[0]
    forged.write_text("nothing\n")
    assert "malformed" in examine(ws, [str(forged)]).problems[0]
    other = Workspace.create(tmp_path / "other")
    note_of(other, forged)
    assert "of the log `hallmark/" in examine(ws, [str(forged)]).problems[0]
    assert examine(ws, [str(tmp_path / "held.txt"), str(forged)]).anchored == held.size
    with pytest.raises(HallmarkError, match="no file"):
        examine(ws, [str(tmp_path / "none.txt")])


def test_a_recorded_checkpoint_that_does_not_hold_is_named(copy):
    ws = copy()
    held = checkpoints.draft(ws, "operator")
    body = {"note": held.note, "size": held.size, "root": held.root.hex()}
    for wrong in (body | {"root": "00"}, body | {"note": held.note + "x"}, {"note": 3}, {}):
        ws = copy()
        ws.record("checkpoint.signed", str(held.size), wrong, actor="operator")
        ws.record("count", "after", {}, actor="me")
        found = examine(ws)
        assert "this checkpoint does not hold" in found.problems[0]
        assert found.first_bad.seq == held.size + 1
    ws = copy()
    ws.journal.append([("count", "s", {}, "me")])
    early = checkpoints.draft(ws, "operator")
    ws = copy()
    body = {"note": early.note, "size": early.size, "root": early.root.hex()}
    ws.record("checkpoint.signed", str(early.size), body, actor="operator")
    assert "but is number" in examine(ws).problems[0]


def test_receipts_and_copies_of_something_else_are_refused(copy, tmp_path):
    ws = copy()
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps(proofs.receipt_of(ws, "3") | {"workspace": "0" * 64}))
    assert "is of workspace `000000000000`" in examine(ws, receipts=[receipt]).problems[0]
    for wrong, message in (("{", "not JSON"), ("{}", "not a receipt"), ("[3]", "not a receipt")):
        receipt.write_text(wrong)
        with pytest.raises(SpecError, match=message):
            examine(ws, receipts=[receipt])
    with pytest.raises(NotFound, match="no file"):
        examine(ws, receipts=[tmp_path / "none.json"])
    with pytest.raises(NotFound, match="no copy of a journal"):
        examine(ws, copies=[tmp_path])
    copied = Path(shutil.copytree(ws.journal.root, tmp_path / "copied"))
    for path in copied.glob("*.seg"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert "does not hold itself" in examine(ws, copies=[copied]).problems[0]


# ---- proofs ----------------------------------------------------------------------------------------------------


def test_every_covered_record_has_a_proof_that_stands_alone(copy):
    ws = copy()
    newest = checkpoints.newest(ws)
    for seq in (1, 2, newest.size):
        row = ws.store.query("SELECT hash FROM event WHERE seq = ?", [seq])[0]
        for ref in (str(seq), row["hash"], row["hash"][:16]):
            proof = proofs.prove(ws, ref)
            assert proof["seq"] == seq
            leaf = merkle.leaf_hash(proof["payload"].encode())
            path = [bytes.fromhex(step) for step in proof["proof"]]
            stated = checkpoints.parse(proof["checkpoint"])
            assert merkle.verify_inclusion(leaf, proof["index"], stated.size, path, stated.root)
    with pytest.raises(NotFound, match="not "):
        proofs.prove(ws, str(newest.size + 1))
    for missing in ("0", "999", "ffffffff", "ff", "nonsense"):
        with pytest.raises(NotFound, match="no records"):
            proofs.prove(ws, missing)


def test_a_log_that_differs_from_its_checkpoint_proves_nothing(copy):
    ws = rewrite(copy(), {6: altered})
    with pytest.raises(Tampered, match="differs from its newest checkpoint"):
        proofs.prove(ws, "3")


def test_a_log_without_checkpoint_proves_nothing(tmp_path):
    ws = Workspace.create(tmp_path / "ws")
    with pytest.raises(NotFound, match="no checkpoint covers record 1"):
        proofs.prove(ws, "1")
