"""River's ADWIN as a peer of the drift benchmark: its own environment, and one process that reads streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "river.txt"
PEER = HERE.parent.parent / ".hallmark-peers" / "river"


def install() -> None:
    """Make river's environment from its lock."""
    print(f"installing river into {PEER} (4 packages)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin" / "pip"), "install", "--quiet", "--requirement", str(LOCK)], check=True)


def locked_version() -> str:
    """Return the version of river in the lock."""
    lines = LOCK.read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("river=="))


def alarms(streams: Sequence[Sequence[float]]) -> list[list[int]]:
    """Return, for each stream, the places where ADWIN with its defaults (delta .002) raised an alarm."""
    done = subprocess.run(
        [str(PEER / "bin" / "python"), str(Path(__file__).resolve())],
        input=json.dumps([list(stream) for stream in streams]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[list[int]] = json.loads(done.stdout)
    return found


def _serve() -> None:
    """Run in river's own Python: streams as JSON on stdin, places of alarms on stdout."""
    from river.drift import ADWIN

    found = []
    for stream in json.load(sys.stdin):
        detector, places = ADWIN(), []
        for place, value in enumerate(stream):
            detector.update(value)
            if detector.drift_detected:
                places.append(place)
        found.append(places)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _serve()
