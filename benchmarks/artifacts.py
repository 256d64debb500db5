"""How fast are files stored and checked, an alias read, a release rolled back? Beside sha256sum and DVC.

    python benchmarks/artifacts.py [--rounds 5] [--quick] [--install-peers]

The same random bytes (a few large files and many small ones) are added to a fresh store and verified, digested by
`sha256sum`, and added to and checked by DVC (`dvc add`, `dvc status` without its table of file times), inside one
running process each. Hallmark computes BLAKE3 and SHA-256 and syncs every file to disk; DVC computes MD5 and syncs
nothing. Rounds are interleaved; figures are medians. The cache of the file system is warm for all. DVC runs from its
own environment, `.hallmark-peers/dvc`, made from `benchmarks/peers/dvc.txt` by `--install-peers`; without it the rest
is shown. Adding can be no faster than the disk writes: `--folder /dev/shm` takes the disk out of the comparison, for
every program in it.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.measure import write_result  # noqa: E402
from benchmarks.peers.dvc_cache import PEER, install, locked_version  # noqa: E402

GOAL, READ_GOAL_US, ROLLBACK_GOAL_MS = 4.0, 50.0, 100.0


def make_files(folder: Path, *, quick: bool) -> int:
    """Write a few large files and many small ones of random bytes; return their size."""
    folder.mkdir()
    large, small = (4 << 20, 100) if quick else (240 << 20, 1000)
    for number in range(4):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            for _ in range(large >> 20):
                file.write(os.urandom(1 << 20))
    for number in range(small):
        (folder / f"part-{number:04}.json").write_bytes(os.urandom(4096 + number * 13 % 12288))
    os.sync()
    return sum(path.stat().st_size for path in folder.iterdir())


class Ours:
    """Hallmark's store, made anew for every round."""

    def __init__(self, scratch: Path, data: Path) -> None:
        self.scratch, self.data = scratch / "objects", data

    def add(self) -> float:
        from registry.artifacts import Artifacts

        shutil.rmtree(self.scratch, ignore_errors=True)
        os.sync()
        self.store = Artifacts(self.scratch)
        self.store.create()
        begun = time.perf_counter()
        self.manifest = self.store.add_tree(self.data).id
        return time.perf_counter() - begun

    def again(self) -> float:
        begun = time.perf_counter()
        self.store.add_tree(self.data)
        return time.perf_counter() - begun

    def check(self) -> float:
        begun = time.perf_counter()
        if problems := self.store.verify(self.manifest):
            raise SystemExit(problems[0])
        return time.perf_counter() - begun

    def checkout(self) -> float:
        begun = time.perf_counter()
        copy = self.store.checkout(self.manifest, self.scratch.parent / "copy")
        took = time.perf_counter() - begun
        shutil.rmtree(copy)
        return took


class Dvc:
    """DVC, in a process of its own that stays up; its cache is dropped before every add."""

    def __init__(self, scratch: Path, data: Path) -> None:
        self.repository = scratch / "dvc"
        self.repository.mkdir()
        self.data = self.repository / "data"
        shutil.copytree(data, self.data)
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        command = [str(PEER / "bin" / "python"), str(HERE / "peers" / "dvc_cache.py"), str(self.repository), "data"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)  # fmt: skip
        self.tell("")

    def tell(self, order: str) -> str:
        ours, theirs = self.process.stdin, self.process.stdout
        assert ours is not None
        assert theirs is not None
        if order:
            ours.write(order + "\n")
            ours.flush()
        return _answer(theirs)

    def add(self) -> float:
        shutil.rmtree(self.repository / ".dvc", ignore_errors=True)
        shutil.rmtree(self.repository / "state", ignore_errors=True)
        (self.repository / "data.dvc").unlink(missing_ok=True)
        os.sync()
        return float(self.tell("add"))

    def check(self) -> float:
        return float(self.tell("check"))

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(30)


def _answer(stream: IO[str]) -> str:
    """Return the next line that is an answer: DVC talks on stdout too."""
    for line in stream:
        word = line.strip()
        if word == "ready" or word.replace(".", "", 1).replace("e-", "", 1).isdigit():
            return word
    raise SystemExit("DVC stopped")


def sha256sum(data: Path) -> float:
    """Return the seconds `sha256sum` takes for all files, in one call."""
    names = sorted(str(path) for path in data.iterdir())
    begun = time.perf_counter()
    subprocess.run(["sha256sum", *names], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def rates(data: Path, size: int, scratch: Path, rounds: int) -> dict[str, float]:
    """Return median GB/s by name, rounds interleaved."""
    ours = Ours(scratch, data)
    dvc = Dvc(scratch, data) if (PEER / "bin" / "dvc").exists() else None
    if dvc is None:
        print(f"DVC is not installed in {PEER}: run with --install-peers; the rest follows", file=sys.stderr)
    took: dict[str, list[float]] = {}
    jobs: list[tuple[str, Any]] = [
        ("sha256sum", lambda: sha256sum(data)), ("hallmark add", ours.add), ("hallmark verify", ours.check),
        ("hallmark checkout", ours.checkout), ("hallmark add again", ours.again),
    ]  # fmt: skip
    if dvc:
        jobs += [("dvc add", dvc.add), ("dvc status", dvc.check)]
    try:
        for _ in range(rounds):
            for name, job in jobs:
                took.setdefault(name, []).append(job())
    finally:
        if dvc:
            dvc.close()
    return {name: size / statistics.median(values) / 1e9 for name, values in took.items()}


def releases(scratch: Path, rounds: int) -> tuple[float, float]:
    """Return (microseconds to read an alias's pointer, milliseconds to roll back) of a small certified model."""
    from governance import approvals, promotion
    from governance.setup import create_workspace

    ws = create_workspace(scratch / "ws")
    for mark in (b"a", b"b"):
        candidate = _passed(ws, scratch / "model", mark)
        approvals.approve(ws, candidate, reason="benchmark")
        promotion.promote(ws, candidate, "prod")
    reads = []
    for _ in range(2000):
        begun = time.perf_counter()
        ws.release("prod")
        reads.append(time.perf_counter() - begun)
    back = []
    for number in range(rounds + 1):
        begun = time.perf_counter()
        if not promotion.rollback(ws, "prod", reason=f"benchmark {number}").moved:
            raise SystemExit("the alias did not move")
        back.append(time.perf_counter() - begun)
    ws.close()
    return statistics.median(reads) * 1e6, statistics.median(back[1:]) * 1e3


def _passed(ws: Any, folder: Path, mark: bytes) -> Any:
    """Return a candidate that the gate passed, as training and evaluation would leave it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from governance import candidates
    from registry.records import EvalRun, GateDecision, ModelVersion, Run

    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(mark * (1 << 20))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    made = ws.artifacts.add_tree(folder)
    run = ws.register(Run("sft", "sha256:r", {"mark": mark.decode()}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    record = ModelVersion("code", made.id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name="code", parents=[("run", run.id)])
    candidate = candidates.create(ws, version.id, actor="trainer")
    types = {"sample_id": pa.string(), "kpi": pa.string(), "epoch": pa.int32(), "value": pa.float64(),
             "weight": pa.float64(), "cluster": pa.string(), "error": pa.string(), "detail": pa.string()}  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.schema(types.items()).empty_table(), sink)
    rows = ws.artifacts.add_bytes(sink.getvalue())
    evaluated = ws.register(EvalRun(candidate.id, "sha256:s", {"k": "sha256:i"}, rows, {}, {}, {}, {}, {}),
                            actor="evaluator")  # fmt: skip
    decision = GateDecision(
        candidate.id, None, "sha256:s", "PASS", True, "fixed", 0.05, [evaluated.id], [], {"kpis": []}
    )
    ws.register(decision, actor="evaluator", name=candidate.name)
    return candidate


def report(found: dict[str, float], read_us: float, rollback_ms: float) -> dict[str, Any]:
    """Print the table; return the figures."""
    print(f"{'':22}{'GB/s':>8}{'x sha256sum':>14}{'x DVC':>9}")
    ratios = {}
    for name, rate in found.items():
        peer = found.get("dvc add" if "add" in name else "dvc status")
        beside = f"{rate / peer:>9.2f}" if peer and name.startswith("hallmark") else ""
        print(f"{name:22}{rate:>8.2f}{rate / found['sha256sum']:>14.2f}{beside}")
    for name in ("add", "verify"):
        ratios[f"{name}_over_sha256sum"] = round(found[f"hallmark {name}"] / found["sha256sum"], 2)
        if "dvc add" in found:
            peer = found["dvc add" if name == "add" else "dvc status"]
            ratios[f"{name}_over_dvc"] = round(found[f"hallmark {name}"] / peer, 2)
    print(f"\nalias read {read_us:.1f} us (goal below {READ_GOAL_US:.0f}), rollback {rollback_ms:.1f} ms "
          f"(goal below {ROLLBACK_GOAL_MS:.0f}); goal of both rates: {GOAL:.0f} x sha256sum")  # fmt: skip
    speeds = {name.replace(" ", "_") + "_gb_s": round(rate, 3) for name, rate in found.items()}
    return {**speeds, **ratios, "alias_read_us": round(read_us, 2), "rollback_ms": round(rollback_ms, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small files, one round, nothing kept")
    parser.add_argument("--install-peers", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made; default the system's")
    chosen = parser.parse_args()
    if chosen.install_peers and not (PEER / "bin" / "dvc").exists():
        install()
    rounds = 1 if chosen.quick else chosen.rounds
    with tempfile.TemporaryDirectory(prefix="hm-", dir=chosen.folder) as name:
        scratch = Path(name)
        size = make_files(scratch / "data", quick=chosen.quick)
        found = rates(scratch / "data", size, scratch, rounds)
        read_us, rollback_ms = releases(scratch, max(rounds, 5))
        figures = report(found, read_us, rollback_ms)
        place = str(chosen.folder or "disk")
        more = {"bytes": size, "folder": place, "rounds": rounds, "dvc": locked_version(), **figures}
        kept = scratch / "artifacts.json" if chosen.quick else None
        write_result("artifacts", more, packages=("blake3", "hallmark-platform"), out=kept)


if __name__ == "__main__":
    main()
