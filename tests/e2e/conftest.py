"""The quickstart, run once for all tests here: without a network, and killed several times on the way."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOPBACK_ONLY = [sys.executable, "-P", str(Path(__file__).parent / "loopback_only.py")]
RUN = [sys.executable, "-P", str(ROOT / "examples" / "quickstart" / "run.py"), "--workspace"]
KILL_AFTER_S = (6, 25, 45, 30)
"""Seconds after which a run is killed; the run after it goes on from there."""


@dataclass
class Demo:
    """The finished quickstart: its workspace, what the last run printed, and what the killed ones left running."""

    root: Path
    output: str
    killed: int
    leftover: list[str]


def network_namespace_works():
    done = subprocess.run([*LOOPBACK_ONLY, "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    if not network_namespace_works():
        pytest.fail("this system lets nobody make a network namespace: the quickstart cannot be shown to stay offline")
    root = tmp_path_factory.mktemp("demo") / "ws"
    command = [*LOOPBACK_ONLY, *RUN, str(root)]
    killed, leftover = 0, []
    for seconds in KILL_AFTER_S:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        time.sleep(seconds)
        if child.poll() is None:
            killed += 1
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        leftover += wait_until_gone(root)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return Demo(root, done.stdout, killed, leftover)


def wait_until_gone(root, patience=20.0):
    """Return the command lines that still name the workspace after a while: children that outlived their parent."""
    deadline = time.monotonic() + patience
    while (left := processes_naming(root)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def processes_naming(root):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if str(root) in line and state != "Z":
                found.append(line)
    return found
