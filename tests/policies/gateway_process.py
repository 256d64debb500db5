"""A gateway in a process of its own, so that its memory can be read and nothing of the test weighs on it.

Run as `python -P -m tests.policies.gateway_process UDS FOLDER`: prints its URL and keys, and ends with its input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policies.access.authorize import Authorizer, ModelState
from policies.access.callers import Callers
from policies.bundle import compile_bundle
from policies.endpoint.audit import DecisionLog
from policies.endpoint.desk import Bounds, Desk, Front
from policies.endpoint.exchange import Served
from policies.endpoint.gateway import Gateway
from policies.endpoint.listener import Listener, bind, url_of
from policies.endpoint.upstream import Upstream
from policies.enforcement.engine import Enforcer
from registry.journal import Journal
from tests.policies.running import caller_rows, make_bundle


@dataclass
class Process:
    """A running gateway: where it listens, its keys, its number."""

    url: str
    keys: dict[str, str]
    pid: int
    journal: Path

    def rss_mib(self) -> float:
        """Return its resident memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def gateway_process(uds: Path, folder: Path) -> Iterator[Process]:
    """Yield a gateway in front of the engine at `uds`."""
    folder.mkdir(parents=True)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.policies.gateway_process", str(uds), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        told = json.loads(child.stdout.readline())
        yield Process(told["url"], told["keys"], child.pid, folder / "journal")
        assert child.poll() is None, "the gateway has ended"
    finally:
        child.stdin.close()
        try:
            child.wait(40)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise


def main(uds: Path, folder: Path) -> None:
    """Serve until the standard input closes."""
    bundle = make_bundle(folder / "bundle")
    keys: dict[str, str] = {}
    rows = caller_rows(keys)
    (folder / "journal").mkdir()
    log = DecisionLog(Journal(folder / "journal", "hostile").append, endpoint="prod")
    served = Served("prod", "stdlib", "engine", "sha256:c", "sha256:cert", bundle.digest)
    desk = Desk(
        served, ModelState("stdlib", "sha256:c", "sha256:cert", "certified"), Enforcer(compile_bundle(bundle)),
        Authorizer(bundle), Upstream(uds),
    )  # fmt: skip
    front = Front(Callers(lambda: rows), log, b"key" * 8, bounds=Bounds(body_s=3.0, request_s=20.0))
    bound = bind("127.0.0.1", 0)
    listener = Listener(Gateway(front, [desk]), bound, drain_s=3)
    sys.stdout.write(json.dumps({"url": url_of(bound), "keys": keys}) + "\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.read(), listener.stop()), daemon=True).start()
    listener.run()
    log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
