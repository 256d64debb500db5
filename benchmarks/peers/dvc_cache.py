"""DVC as a peer of the artifact benchmark: its own environment, and one process that adds and checks as it is told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "dvc.txt"
PEER = HERE.parent.parent / ".hallmark-peers" / "dvc"


def install() -> None:
    """Make DVC's environment from its lock."""
    print(f"installing DVC into {PEER} (some 95 packages)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin" / "pip"), "install", "--quiet", "--requirement", str(LOCK)], check=True)


def locked_version() -> str:
    """Return the version of DVC in the lock."""
    lines = LOCK.read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("dvc=="))


def _serve(repository: str, data: str) -> None:
    """Run in DVC's own Python: `add` and `check` from stdin; print seconds. Start-up and imports are not counted."""
    import os
    import shutil

    from dvc.repo import Repo

    os.chdir(repository)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            repo = Repo.init(".", no_scm=True, force=True)
            repo.config["core"]["site_cache_dir"] = str(Path(repository) / "state")
            begun = time.perf_counter()
            repo.add(data)
            took = time.perf_counter() - begun
        else:
            shutil.rmtree(Path(repository) / "state", ignore_errors=True)  # else it compares times, and hashes nothing
            repo = Repo(".", config={"core": {"site_cache_dir": str(Path(repository) / "state")}})
            begun = time.perf_counter()
            changed = repo.status()
            took = time.perf_counter() - begun
            if changed:
                raise SystemExit(f"DVC finds changes: {changed}")
        repo.close()
        print(took, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
