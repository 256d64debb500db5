"""What every benchmark shares: the machine it ran on, CPU and wall time of a child process, and the file it leaves.

python benchmarks/measure.py     prints the machine
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Cost:
    """What one child process cost: seconds of CPU (user and system, its own children included) and of the clock."""

    cpu_s: float
    wall_s: float
    code: int
    output: str


def hardware() -> dict[str, object]:
    """Return the processor, the cores this process may use, the memory in GiB, the system and its load now."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "machine": platform.machine(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_child(
    command: Sequence[str], *, timeout_s: float = 300.0, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run a command to its end and return what it cost, by the kernel's own accounting of that one child."""
    with tempfile.TemporaryFile() as out:
        begun = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        while True:
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            if time.perf_counter() - begun > timeout_s:
                child.kill()
                _, status, usage = os.wait4(child.pid, 0)
                break
            time.sleep(0.001)
        wall = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    return Cost(usage.ru_utime + usage.ru_stime, wall, child.returncode, text)


def write_result(
    name: str, figures: Mapping[str, object], *, packages: Sequence[str] = (), out: Path | None = None
) -> Path:
    """Write `results/<name>.json`: the figures with date, machine and versions; print them as one JSON line."""
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(),
        "versions": versions(*packages),
        **figures,
    }
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))
    return path


if __name__ == "__main__":
    print(json.dumps(hardware()))
