"""The journal: what is acknowledged stays, what is torn is cut, what is altered is found."""

import hashlib
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import HallmarkError, Locked, Tampered
from registry.journal import HEADER, Journal, read_segment
from registry.segment import MARK, Mark, scan

WRITER = """
import sys
from pathlib import Path
from registry.journal import Journal
journal = Journal(Path(sys.argv[1]), "w")
number = 0
while True:
    event = journal.append([("count", sys.argv[2], {"n": number}, "me")])[0]
    sys.stdout.write(f"{event.segment} {event.pos} {number}\\n")
    sys.stdout.flush()
    number += 1
"""


def make(tmp_path, count=5):
    journal = Journal(tmp_path, "w")
    for number in range(count):
        journal.append([("count", "s", {"n": number, "text": "é" * number}, "me")])
    return journal


def test_append_returns_chained_events_that_read_back(tmp_path):
    journal = make(tmp_path)
    events = [frame.event for frame in read_segment(journal.segments()[0])]
    assert [event.kind for event in events] == ["segment.opened"] + ["count"] * 5
    assert all(after.prev == before.hash for before, after in itertools.pairwise(events))
    assert events[-1].body == {"n": 4, "text": "éééé"}


def test_a_second_process_takes_another_segment(tmp_path):
    journal = make(tmp_path)
    script = WRITER.replace("while True", "for _ in range(3)")
    subprocess.run([sys.executable, "-c", script, str(tmp_path), "b"], check=True, capture_output=True)
    assert [path.name for path in journal.segments()] == ["000001.seg", "000002.seg"]


def test_a_freed_segment_is_taken_up_again(tmp_path):
    make(tmp_path).close()
    journal = make(tmp_path, 2)
    assert len(journal.segments()) == 1
    assert [frame.event.pos for frame in read_segment(journal.segments()[0])] == list(range(8))


def test_a_torn_tail_is_cut_and_the_chain_goes_on(tmp_path):
    journal = make(tmp_path)
    journal.close()
    path = journal.segments()[0]
    whole = path.read_bytes()
    path.write_bytes(whole + HEADER.pack(1000, 7) + b'{"actor":"half')
    journal.append([("after", "s", {}, "me")])
    events = [frame.event for frame in read_segment(path)]
    assert events[-1].kind == "after"
    assert events[-1].prev == events[-2].hash
    assert path.read_bytes().startswith(whole)


def test_a_tail_cut_below_what_was_ingested_is_tampering(tmp_path):
    journal = make(tmp_path)
    journal.close()
    path = journal.segments()[0]
    (tmp_path / "order.log").write_text('{"segment":"000001","from":0,"to":%d}\n' % path.stat().st_size)
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(Tampered, match="were ingested"):
        journal.append([("after", "s", {}, "me")])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_before_the_last_record_is_found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("journal")
    journal = make(folder)
    path = journal.segments()[0]
    original = path.read_bytes()
    frames = list(read_segment(path))
    place = data.draw(st.integers(0, frames[-2].end - 1))
    flip = data.draw(st.integers(1, 255))
    path.write_bytes(original[:place] + bytes([original[place] ^ flip]) + original[place + 1 :])
    with pytest.raises(Tampered, match="broken at byte"):
        list(read_segment(path))


@pytest.mark.parametrize("victim", [1, 2, 4])
def test_a_deleted_record_breaks_the_chain(tmp_path, victim):
    path = make(tmp_path).segments()[0]
    frames, data = list(read_segment(path)), path.read_bytes()
    path.write_bytes(data[: frames[victim - 1].end] + data[frames[victim].end :])
    with pytest.raises(Tampered, match="does not follow"):
        list(read_segment(path))


def test_two_swapped_records_break_the_chain(tmp_path):
    path = make(tmp_path).segments()[0]
    ends = [frame.end for frame in read_segment(path)]
    data = path.read_bytes()
    path.write_bytes(data[: ends[1]] + data[ends[2] : ends[3]] + data[ends[1] : ends[2]] + data[ends[3] :])
    with pytest.raises(Tampered, match="does not follow"):
        list(read_segment(path))


def test_threads_share_a_segment_without_losing_a_record(tmp_path):
    journal = Journal(tmp_path, "w")

    def write(name):
        for number in range(50):
            journal.append([("count", name, {"n": number}, "me")])

    threads = [threading.Thread(target=write, args=(str(name),)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [frame.event for frame in read_segment(journal.segments()[0])][1:]
    assert sorted((event.subject, event.body["n"]) for event in events) == sorted(
        (str(name), number) for name in range(8) for number in range(50)
    )


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    for round_number in range(5):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), f"{round_number}-{number}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        first = [child.stdout.readline() for child in children]
        time.sleep(0.2)
        for child in children:
            child.send_signal(signal.SIGKILL)
        said = "".join(line + child.stdout.read() for line, child in zip(first, children, strict=True))
        acknowledged = {
            (line.split()[0], int(line.split()[1])) for line in said.splitlines(keepends=True) if line.endswith("\n")
        }
        for child in children:
            child.wait()
            child.stdout.close()
        kept = {(path.stem, f.event.pos) for path in Journal(tmp_path, "w").segments() for f in read_segment(path)}
        assert acknowledged
        assert acknowledged <= kept


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    journal = make(tmp_path)
    before = journal.segments()[0].read_bytes()
    real = os.pwrite

    def fails_half_way(descriptor, data, offset):
        real(descriptor, data[: len(data) // 2], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fails_half_way)
    with pytest.raises(HallmarkError, match="No space left"):
        journal.append([("count", "s", {}, "me")])
    monkeypatch.undo()
    assert journal.segments()[0].read_bytes() == before
    journal.append([("count", "s", {}, "me")])
    assert len(list(read_segment(journal.segments()[0]))) == 7


def test_a_failed_sync_takes_back_what_it_did_not_make_durable(tmp_path, monkeypatch):
    journal = make(tmp_path)
    before = journal.segments()[0].read_bytes()

    def fails(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(HallmarkError, match="Input/output error") as caught:
        journal.append([("count", "s", {}, "me")])
    monkeypatch.undo()
    assert "nothing was recorded" in caught.value.hint
    assert journal.segments()[0].read_bytes() == before
    assert journal.append([("count", "s", {}, "me")])[0].pos == 6


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_says_so_and_loses_nothing(small_disk):
    journal = Journal(small_disk, "w")
    kept = []

    def write_on():
        while len(kept) < 10_000:
            kept.append(journal.append([("count", "s", {"n": len(kept), "fill": "x" * 2000}, "me")])[0])

    with pytest.raises(HallmarkError, match="No space left") as caught:
        write_on()
    assert "free space" in caught.value.hint
    (path,) = journal.segments()
    assert [frame.event.hash for frame in read_segment(path)][1:] == [event.hash for event in kept]
    journal.close()
    event = journal.append([("small", "s", {}, "me")])[0]
    journal.close()
    assert event.prev == kept[-1].hash


def test_a_journal_that_cannot_be_written_is_named(small_disk):
    journal = Journal(small_disk, "w")
    journal.append([("count", "s", {}, "me")])
    journal.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(Locked, match="cannot write the journal") as caught:
        journal.append([("count", "s", {}, "me")])
    assert str(small_disk) in caught.value.hint


def test_a_seal_is_kept_with_its_record(tmp_path):
    seal = {"keyid": "k", "at": "t", "sig": "c2ln"}
    journal = make(tmp_path, 0)
    event, plain = journal.append([("count", "s", {}, "me", seal), ("count", "s", {}, "me")])
    assert (event.sig, plain.sig) == (seal, None)
    found = [frame.event for frame in read_segment(journal.segments()[0])][1:]
    assert found == [event, plain]
    assert {one.v for one in found} == {2}


def test_a_frame_gives_the_exact_bytes_that_were_written(tmp_path):
    path = make(tmp_path).segments()[0]
    for frame in read_segment(path):
        assert hashlib.sha256(frame.payload).hexdigest() == frame.event.hash
        assert path.read_bytes()[frame.end - len(frame.payload) : frame.end] == frame.payload


def test_a_segment_of_another_workspace_is_refused_and_named(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder in (theirs, ours):
        folder.mkdir()
    other = Journal(theirs, "another")
    other.append([("count", "s", {}, "me")])
    shutil.copy(other.segments()[0], ours / "000001.seg")
    journal = Journal(ours, "w")
    with pytest.raises(Tampered, match=r"`000001.seg` belongs to another workspace \(`another`\)"):
        journal.append([("count", "s", {}, "me")])
    with pytest.raises(Tampered, match="belongs to another workspace"):
        list(read_segment(ours / "000001.seg", workspace="w"))
    assert list(read_segment(ours / "000001.seg", workspace="another"))


def test_a_segment_copied_to_another_name_is_refused_and_named(tmp_path):
    journal = make(tmp_path)
    shutil.copy(journal.segments()[0], tmp_path / "000007.seg")
    with pytest.raises(Tampered, match="`000007.seg` is a copy of segment `000001`"):
        list(read_segment(tmp_path / "000007.seg", workspace="w"))


def frame_of(**value):
    payload = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def test_a_position_that_is_not_the_next_one_is_found(tmp_path):
    path = make(tmp_path).segments()[0]
    last = list(read_segment(path))[-1].event
    value = {"v": 2, "ts": last.ts, "actor": "me", "kind": "count", "subject": "s", "body": {}, "prev": last.hash}
    path.write_bytes(path.read_bytes() + frame_of(pos=last.pos + 2, **value))
    with pytest.raises(Tampered, match="its position is not the next one"):
        list(read_segment(path))


@pytest.mark.parametrize("value", [{"v": 2}, {"v": 2, "actor": "me"}])
def test_a_frame_that_is_no_record_is_found(tmp_path, value):
    path = make(tmp_path).segments()[0]
    path.write_bytes(path.read_bytes() + frame_of(**value))
    with pytest.raises(Tampered, match="is not a journal record"):
        list(read_segment(path))


@pytest.mark.timeout(60)
def test_a_huge_tail_of_frames_within_frames_takes_no_quadratic_time(tmp_path):
    path = make(tmp_path).segments()[0]
    size = 8 << 20
    step = 64  # each claims all the rest as its own: 131,072 overlapping candidates, half a terabyte of checksums
    parts = [struct.pack("<II", size - at - HEADER.size, 7) + MARK.ljust(step - HEADER.size, b" ")
             for at in range(0, size, step)]  # fmt: skip
    path.write_bytes(path.read_bytes() + b"".join(parts)[:-1] + b"}")
    with pytest.raises(Tampered, match="do not match their checksum"):
        list(read_segment(path))


@pytest.mark.timeout(60)
def test_a_huge_torn_tail_is_cut(tmp_path):
    journal = make(tmp_path)
    journal.close()
    path = journal.segments()[0]
    whole = path.read_bytes()
    path.write_bytes(whole + HEADER.pack(12 << 20, 7) + MARK + b'"body":{"actor":' * 500_000)
    journal.append([("after", "s", {}, "me")])
    assert path.read_bytes().startswith(whole)
    assert list(read_segment(path))[-1].event.kind == "after"


def test_a_walk_may_begin_at_any_record(tmp_path):
    path = make(tmp_path).segments()[0]
    frames = list(read_segment(path))
    for count, frame in enumerate(frames, 1):
        rest = [event.hash for event in (f.event for f in read_segment(path, frame.end, prev=frame.event.hash))]
        assert rest == [one.event.hash for one in frames[count:]]
        for chunk in scan(path, Mark(frame.end, count, frame.event.hash)):
            assert chunk.mark.count == len(frames)
        with pytest.raises(Tampered, match="position"):
            list(scan(path, Mark(frames[0].end, 5, frames[0].event.hash)))
