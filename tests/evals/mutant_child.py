"""Run named tests on copies of the `evals` package, one forked child a copy: `mutant_child.py JOBS`.

JOBS is a JSON list of [folder with a copy of evals, [names as `module.function`]]. Prints a JSON list, in the same
order: empty text where every test was green, else the first failure, or `broken: ...` where the copy cannot even be
imported. Heavy libraries are imported once, before the forks; our own code after them, from the copy.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

AT_ONCE = 2
SECONDS = 60


def main() -> None:
    """Run all jobs, two at a time, and print their outcomes."""
    for name in ("numpy", "scipy.stats", "scipy.special", "pydantic", "msgspec", "orjson", "pyarrow", "pytest"):
        importlib.import_module(name)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    outcomes = [""] * len(jobs)
    running: dict[int, tuple[int, int]] = {}
    for number, (folder, names) in enumerate(jobs):
        if len(running) == AT_ONCE:
            collect(running, outcomes)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os.write(writing, outcome(folder, names).encode()[:4000])
            os._exit(0)
        os.close(writing)
        running[child] = (number, reading)
    while running:
        collect(running, outcomes)
    sys.stdout.write(json.dumps(outcomes))


def collect(running: dict[int, tuple[int, int]], outcomes: list[str]) -> None:
    """Wait for one child and keep what it said."""
    child, status = os.wait()
    number, reading = running.pop(child)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    outcomes[number] = said if status == 0 else f"broken: the child ended with status {status}"


def outcome(folder: str, names: list[str]) -> str:
    """Return the first failure of the named tests on a copy, or empty text."""
    sys.path.insert(0, folder)
    try:
        gate = importlib.import_module("evals.gate")
        if not str(gate.__file__).startswith(folder):
            return f"broken: {gate.__file__} is not the copy"
        tests = [getattr(importlib.import_module(f"tests.evals.{module}"), test) for module, test in map(split, names)]
    except Exception as error:  # noqa: BLE001  (whatever a copy does on import, it is no mutant)
        return f"broken: {type(error).__name__}: {error}"
    for test, name in zip(tests, names, strict=True):
        for values in cases(test):
            try:
                test(**values)
            except Exception as error:  # noqa: BLE001  (any failure of a test is what is looked for)
                return f"{name}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def split(name: str) -> tuple[str, str]:
    """Return module and function of a name."""
    module, _, test = name.partition(".")
    return module, test


def cases(test: Any) -> list[dict[str, Any]]:
    """Return the arguments of every case of a test: one without any, or those of its `parametrize` mark."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    if not marks:
        return [{}]
    names, values = marks[0].args
    if isinstance(names, str):
        return [{names: value} for value in values]
    return [dict(zip(names, value, strict=True)) for value in values]


if __name__ == "__main__":
    main()
