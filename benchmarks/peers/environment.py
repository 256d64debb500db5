"""An environment of its own for each peer of a benchmark: made from its lock, never mixed with ours."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent.parent / ".hallmark-peers"


@dataclass(frozen=True)
class Peer:
    """A peer in `.hallmark-peers/<name>`, installed from `benchmarks/peers/<lock>`."""

    name: str
    package: str
    lock: str

    @property
    def folder(self) -> Path:
        """Its environment."""
        return PEERS / self.name

    @property
    def program(self) -> Path:
        """Its command."""
        return self.folder / "bin" / {"guardrails-api": "guardrails"}.get(self.package, self.package)

    @property
    def installed(self) -> bool:
        """Whether it is there."""
        return self.program.exists()

    def install(self) -> None:
        """Make its environment from its lock, unless it is there."""
        if self.installed:
            return
        print(f"installing {self.package} into {self.folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        command = [str(self.folder / "bin" / "pip"), "install", "--quiet", "--requirement", str(HERE / self.lock)]
        subprocess.run(command, check=True)

    def version(self) -> str:
        """Return the version in its lock."""
        lines = (HERE / self.lock).read_text().splitlines()
        return next(line.partition("==")[2] for line in lines if line.startswith(f"{self.package}=="))
