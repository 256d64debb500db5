"""Child process: loads an lm-eval task file and lists its samples and the files that it reads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from evals.children.link import Link, serve

_OPENED: set[str] = set()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    """Note each file that is opened: what a task's own code imports or reads belongs to it, too."""
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        _OPENED.add(os.path.realpath(arguments[0]))


def work(request: dict[str, Any], link: Link) -> None:
    """Plan a KPI: {suite, kpi, task, metric, data, cluster, slices, out}; write {samples, higher, said} to `out`."""
    sys.addaudithook(_note)
    from evals.children.lm_eval_documents import describe
    from evals.children.lm_eval_files import load_files

    suite = Path(request["suite"])
    loaded = load_files(suite, request)
    kpi = {**request, "several": len(loaded.tasks) > 1}
    samples = [
        describe(loaded.tasks[name], name, doc, kpi) for name, docs in loaded.docs.items() for doc in docs
    ]  # fmt: skip
    higher = [task.higher_is_better().get(loaded.metric) for task in loaded.tasks.values()]
    found = {
        "samples": samples,
        "higher": higher[0] if len(set(map(str, higher))) == 1 else None,
        "said": all(task.OUTPUT_TYPE == "generate_until" for task in loaded.tasks.values()),
    }
    Path(request["out"]).write_text(json.dumps(found), encoding="utf-8")
    link.send("planned", opened=sorted(_opened(suite)), folder=str(suite))


def _opened(suite: Path) -> set[str]:
    """Return the files below the suite's folder that were read, by their path in it."""
    found = set()
    for name in _OPENED:
        path = Path(name)
        if path.is_file() and path.is_relative_to(suite):
            found.add(path.relative_to(suite).as_posix())
    return found


if __name__ == "__main__":
    serve(work)
