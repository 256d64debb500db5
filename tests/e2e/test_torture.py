"""Processes killed with -9 at random, several at once: nothing acknowledged is lost or doubled, no alias dangles."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_at_random_200_times_nothing_acknowledged_is_lost(tmp_path):
    out, place = tmp_path / "torture.json", tmp_path / "place"
    command = [sys.executable, str(ROOT / "benchmarks" / "torture.py"), "--kills", "200", "--workers", "8",
               "--races", "20", "--out", str(out), "--keep", str(place)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert found["kills"] >= 200
    assert len(found["killed"]) == 6
    assert found["acknowledged"]["note"] > 100
    assert found["acknowledged"]["move"] > 0
    assert found["dangling_reads"] == 0
    assert found["races"]["one_winner_and_the_loser_told"] == 20
    assert {name: wrong for name, wrong in found["wrong"].items() if wrong} == {}

    from governance.verification import verify
    from registry import aliases
    from registry.workspace import Workspace

    ws = Workspace.open(place / "ws")
    for alias in ("prod", "canary"):
        assert ws.release(alias) == aliases.head(ws, alias).release
        assert verify(ws, alias).exit_code == 0
    assert verify(ws, "log").exit_code == 0
    acknowledged = {
        line.split()[1]
        for path in (place / "notes").glob("*.acknowledged")
        for line in path.read_text().splitlines()
        if line.startswith("note ")
    }
    rows = ws.store.query("SELECT subject FROM event WHERE kind = 'note.added'")
    assert len(rows) == len({row["subject"] for row in rows})
    assert acknowledged <= {row["subject"] for row in rows}
    ws.close()
