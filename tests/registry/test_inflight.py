"""Adds in flight: a lease lives as long as its holder; the gate keeps adds and deletions apart."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.inflight import InFlight

ROOT = str(Path(__file__).parents[2])
HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from registry.inflight import InFlight
held = InFlight(Path(sys.argv[1]))
held.begin()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def flight(tmp_path):
    return InFlight(tmp_path)


def test_nobody_adds_nothing_is_spared(flight):
    assert flight.oldest() is None
    assert flight.now() == pytest.approx(flight.now(), abs=60)
    assert [path.name for path in flight.folder.iterdir()] == ["gate"]


def test_a_lease_is_taken_once_and_ends_with_its_object(flight):
    flight.begin()
    begun = flight.oldest()
    flight.begin()
    assert flight.oldest() == begun <= flight.now()
    other = InFlight(flight.folder)
    other.begin()
    flight.end()
    assert other.oldest() >= begun
    del other
    assert flight.oldest() is None
    flight.end()


def test_a_lease_of_a_process_that_was_killed_counts_no_more(flight):
    child = subprocess.Popen([sys.executable, "-P", "-c", HOLD, str(flight.folder), ROOT], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout.readline() == b"held\n"
    assert flight.oldest() is not None
    child.kill()
    child.communicate()
    assert flight.oldest() is None
    assert list(flight.folder.glob("lease-*")) == []


def test_a_deletion_waits_for_adds_and_adds_for_it(flight):
    inside = threading.Event()

    def delete():
        with InFlight(flight.folder).gate(collecting=True):
            inside.set()

    with flight.gate():
        with InFlight(flight.folder).gate():
            pass
        thread = threading.Thread(target=delete)
        thread.start()
        assert not inside.wait(0.2)
    assert inside.wait(20)
    thread.join()
