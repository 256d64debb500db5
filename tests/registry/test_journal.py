"""The journal: what is acknowledged stays, what is torn is cut, what is altered is found."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import HallmarkError, Tampered
from registry.journal import HEADER, Journal, read_order, read_segment

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
        time.sleep(0.4)
        for child in children:
            child.send_signal(signal.SIGKILL)
        acknowledged = {
            (line.split()[0], int(line.split()[1]))
            for child in children
            for line in child.communicate()[0].splitlines()
        }
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


def test_order_log_ignores_a_torn_last_line(tmp_path):
    path = tmp_path / "order.log"
    path.write_bytes(b'{"segment":"000001","from":0,"to":9}\n{"segment":"0000')
    assert read_order(path) == [{"segment": "000001", "from": 0, "to": 9}]
