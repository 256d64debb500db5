"""Is anything lost when processes are killed at random? Writers, registrars, ingesters, promoters, collectors; kill -9.

    python benchmarks/torture.py [--kills 5000] [--minutes 10] [--races 1000] [--workers 7] [--seed 1] [--out FILE]

Workers are forked from one warm process, so that a kill lands in their work and not in an import; each is killed after
a random time and another one takes its place, until both `--kills` and `--minutes` are reached. A worker writes down
what was acknowledged to it after the call returned. Then: every acknowledged record is there once, the log verifies,
every alias points at a certificate that holds and its file is what the journal says, every acknowledged artifact is
whole, and a rebuild gives the same rows. Before that, two processes race for one alias: exactly one wins, the other is
told by whom. Exit code 1 where one of these fails. kill -9 says nothing about power cuts.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.measure import write_result  # noqa: E402

ALIASES = ("prod", "canary")
GRACE_H = 15 / 3600
LIVES = {"writer": (0.01, 0.3), "registrar": (0.1, 2.5), "ingester": (0.02, 0.6), "mover": (0.05, 1.5),
         "promoter": (0.3, 3.5), "collector": (0.05, 1.0)}  # fmt: skip
"""Seconds a worker of each kind lives, at least and at most."""
WARM = ("duckdb", "model_signing.manifest", "model_signing._signing.sign_ec_key", "governance.collection",
        "governance.promotion", "governance.setup", "governance.weights_signing", "registry.checkpoints")  # fmt: skip
TABLES = ("event", "asset", "edge", "alias_history", "approval", "gate_kpi", "gateway_decision")


@dataclass
class Worker:
    """What a forked worker works with: the workspace, its random numbers, and where acknowledgements go."""

    root: Path
    number: int
    ws: Any = None
    draw: random.Random = field(default_factory=random.Random)
    acknowledged: int = -1

    def acknowledge(self, ident: str) -> None:
        """Write down that a call returned; one write, so a kill keeps whole lines."""
        os.write(self.acknowledged, f"{ident}\n".encode())


def write(worker: Worker) -> None:
    """Append records, singly and in batches."""
    count = 0
    while True:
        names = [f"{worker.number}-{count + index}" for index in range(worker.draw.choice((1, 1, 1, 7)))]
        worker.ws.journal.append([("note.added", name, {"n": name}, "hallmark") for name in names])
        for name in names:
            worker.acknowledge(f"note {name}")
        count += len(names)


def register(worker: Worker) -> None:
    """Store a folder and register it as a version."""
    from registry.records import ModelVersion

    count = 0
    while True:
        name = f"w{worker.number}-{count}"
        folder = worker.ws.work("torture", name)
        (folder / "model.safetensors").write_bytes(name.encode() * 64)
        manifest = worker.ws.artifacts.add_tree(folder)
        record = ModelVersion(name, manifest.id, None, None, [], "X", 1, {})
        worker.ws.register(record, actor="trainer", name=name)
        worker.acknowledge(f"version {record.id} {manifest.id}")
        count += 1


def ingest(worker: Worker) -> None:
    """Bring the projection up to date, again and again."""
    while True:
        worker.ws.store.sync()
        worker.ws.store.query("SELECT count(*) AS n FROM event")


def move(worker: Worker) -> None:
    """Move aliases between certificates, by compare-and-set."""
    from registry import aliases
    from registry.errors import Refused
    from registry.records import Release

    certificates = worker.ws.assets("certificate")
    count = 0
    while True:
        alias, target = worker.draw.choice(ALIASES), worker.draw.choice(certificates)
        head = aliases.head(worker.ws, alias)
        body = target.body
        name = f"mover {worker.number}-{count}"
        release = Release(alias, target.id, body["candidate"], body["version"], "2026-01-01T00:00:00+00:00", name)
        try:
            aliases.move(worker.ws, release, head.id if head else "", "operator")
        except Refused as error:
            if "nothing was changed" not in error.message:
                raise
        else:
            worker.acknowledge(f"move {release.id}")
        count += 1


def promote(worker: Worker) -> None:
    """Promote and roll back as the commands do."""
    from governance import promotion
    from registry.errors import Refused

    candidates = worker.ws.assets("candidate")
    while True:
        alias = worker.draw.choice(ALIASES)
        try:
            if worker.draw.random() < 0.5:
                done = promotion.promote(worker.ws, worker.draw.choice(candidates), alias, reason="torture")
            else:
                done = promotion.rollback(worker.ws, alias, reason="torture")
        except Refused as error:
            if "nothing was changed" not in error.message:
                raise
        else:
            worker.acknowledge(f"move {done.release.id}")


def collect(worker: Worker) -> None:
    """Delete what nothing names."""
    from governance import collection
    from registry.errors import Locked

    while True:
        try:
            collection.collect(worker.ws, grace_h=GRACE_H, actor="operator")
        except Locked:  # one collection at a time
            time.sleep(0.02)


WORK: dict[str, Callable[[Worker], None]] = {
    "writer": write, "registrar": register, "ingester": ingest,
    "mover": move, "promoter": promote, "collector": collect,
}  # fmt: skip


def prepare(root: Path, models: int = 3) -> None:
    """Make a workspace with candidates that passed, were approved, and were promoted once each."""
    from governance import approvals, candidates, promotion
    from governance.setup import create_workspace
    from registry.records import GateDecision, ModelVersion, Run

    ws = create_workspace(root)
    folder = ws.work("torture", "model")
    for name, text in (("tokenizer.json", "{}"), ("config.json", "{}"), ("generation_config.json", "{}")):
        (folder / name).write_text(text)
    for number in range(models):
        (folder / "model.safetensors").write_bytes(bytes([number]) * 4096)
        run = ws.register(Run("pretrain", "r", {"n": number}, [], None, "x", 1, 1, {}, {}), actor="trainer")
        record = ModelVersion(f"m{number}", ws.artifacts.add_tree(folder).id, run.id, None, [], "X", 1, {})
        version = ws.register(record, actor="trainer", name=record.name, parents=[("run", run.id)])
        candidate = candidates.create(ws, version.id, actor="trainer")
        decision = GateDecision(candidate.id, None, "s", "PASS", True, "fixed", 0.05, [], [], {"kpis": []})
        ws.register(decision, actor="evaluator", name=candidate.name)
        approvals.approve(ws, candidate, reason="torture")
        for alias in ALIASES:
            promotion.promote(ws, candidate, alias, reason="prepared")
    ws.close()


def warm() -> None:
    """Import what workers need; open nothing and start no thread, so that forking is safe."""
    for name in WARM:
        importlib.import_module(name)


def fork(task: Callable[[], None]) -> int:
    """Run a task in a forked process; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        task()
    except BaseException:  # noqa: BLE001 (the child must never return into the parent's code)
        traceback.print_exc()
        code = 1
    os._exit(code)


def start(root: Path, notes: Path, kind: str, number: int, seed: int) -> int:
    """Fork a worker; what goes wrong in it is left in `notes`."""

    def task() -> None:
        from registry.workspace import Workspace

        worker = Worker(root, number, draw=random.Random(f"{seed}-{number}"))
        worker.acknowledged = os.open(notes / f"{number}.acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            worker.ws = Workspace.open(root, {"lock_wait_s": "60"})
            WORK[kind](worker)
        except BaseException:
            (notes / f"{number}.{kind}.error").write_text(traceback.format_exc())
            raise

    return fork(task)


def torture(root: Path, notes: Path, *, kills: int, seconds: float, workers: int, seed: int) -> dict[str, Any]:
    """Keep workers running and kill them at random; return how many of each kind were killed."""
    draw = random.Random(seed)
    alive: dict[int, tuple[float, str]] = {}
    killed: Counter[str] = Counter()
    begun, number, sampled, dangling = time.monotonic(), 0, 0, 0
    known: set[str] = set()
    while True:
        enough = killed.total() >= kills and time.monotonic() - begun >= seconds
        if enough and not alive:
            break
        while len(alive) < workers and not enough:
            kind = list(WORK)[number % len(WORK)]
            alive[start(root, notes, kind, number, seed)] = (time.monotonic() + draw.uniform(*LIVES[kind]), kind)
            number += 1
        pid = min(alive, key=lambda one: alive[one][0])
        time.sleep(max(0.0, alive[pid][0] - time.monotonic()))
        _, kind = alive.pop(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed[kind] += 1
        for alias in ALIASES:
            sampled += 1
            found = json.loads((root / "releases" / f"{alias}.json").read_bytes())
            known.add(found["certificate"])
            dangling += found["alias"] != alias
    return {"killed": dict(killed), "kills": killed.total(), "seconds": round(time.monotonic() - begun, 1),
            "pointer_reads": sampled, "dangling_reads": dangling, "pointed_at": sorted(known)}  # fmt: skip


def race(root: Path, notes: Path, rounds: int) -> dict[str, int]:
    """Let two processes move one alias to different certificates at the same moment; count how the rounds ended."""
    barrier = multiprocessing.get_context("fork").Barrier(2)
    pids = [fork(lambda who=who: _race_one(root, notes / f"race-{who}", who, rounds, barrier)) for who in (0, 1)]  # type: ignore[misc]
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    ends = list(zip(*((notes / f"race-{who}").read_text().splitlines() for who in (0, 1)), strict=True))
    one = sum(sorted(end) == ["told", "won"] for end in ends)
    return {"rounds": rounds, "one_winner_and_the_loser_told": one, "processes_failed": failed}


def _race_one(root: Path, out: Path, who: int, rounds: int, barrier: Any) -> None:
    from registry import aliases
    from registry.errors import Refused
    from registry.records import Release
    from registry.workspace import Workspace

    ws = Workspace.open(root, {"lock_wait_s": "60"})
    target = ws.assets("certificate")[who]
    body, lines = target.body, []
    for number in range(rounds):
        head = aliases.head(ws, "race")
        release = Release("race", target.id, body["candidate"], body["version"], "2026-01-01T00:00:00+00:00",
                          f"{who} {number}")  # fmt: skip
        barrier.wait(60)
        try:
            aliases.move(ws, release, head.id if head else "", "operator")
            lines.append("won")
        except Refused as error:
            lines.append("told" if f"({1 - who} {number})" in error.message else error.message)
        barrier.wait(60)
    ws.close()
    out.write_text("\n".join(lines))


def examine(root: Path, notes: Path, pointed_at: list[str]) -> dict[str, Any]:
    """Return what was acknowledged and what is wrong: every list and count under `wrong` should be empty or 0."""
    from governance.verification import verify
    from registry import aliases
    from registry.workspace import Workspace

    ws = Workspace.open(root, {"lock_wait_s": "60"})
    lines = [line.split() for path in sorted(notes.glob("*.acknowledged"))
             for line in path.read_text().splitlines()]  # fmt: skip
    acknowledged = {kind: [line[1:] for line in lines if line[0] == kind] for kind in ("note", "version", "move")}
    rows = ws.store.query("SELECT subject, count(*) AS n FROM event WHERE kind = 'note.added' GROUP BY subject")
    noted = {row["subject"]: row["n"] for row in rows}
    rows = ws.store.query("SELECT id, count(*) AS n FROM asset GROUP BY id")
    assets = {row["id"]: row["n"] for row in rows}
    moves = Counter(row["release"] for row in ws.store.query("SELECT release FROM alias_history"))
    lost = [name for (name,) in acknowledged["note"] if name not in noted]
    lost += [ident for ident, _ in acknowledged["version"] if ident not in assets]
    lost += [ident for (ident,) in acknowledged["move"] if ident not in moves]
    doubled = [name for name, n in [*noted.items(), *assets.items()] if n > 1]
    broken = [m for _, m in acknowledged["version"] if ws.artifacts.verify(m)]
    cut_off = aliases.settle(ws)
    heads = aliases.heads(ws)
    pointers = [alias for alias, head in heads.items() if ws.release(alias) != head.release]
    dangling = [certificate for certificate in pointed_at if certificate not in assets]
    for alias in heads:
        found = verify(ws, alias)
        dangling += [f"{alias}: {problem}" for problem in found.problems]
    log = verify(ws, "log")
    before = dump(ws)
    ws.store.rebuild()
    differing = [table for table, digest in dump(ws).items() if before[table] != digest]
    ws.close()
    errors = [path.read_text().strip().splitlines()[-1] for path in sorted(notes.glob("*.error"))]
    return {
        "acknowledged": {kind: len(found) for kind, found in acknowledged.items()},
        "events": len(noted), "moves": moves.total(), "cut_off_moves_mended": len(cut_off),
        "wrong": {"lost": lost, "doubled": doubled, "broken_artifacts": broken, "dangling": dangling,
                  "pointers_unlike_the_journal": pointers, "log": list(log.problems),
                  "tables_unlike_after_rebuild": differing, "worker_errors": errors},
    }  # fmt: skip


def dump(ws: Any) -> dict[str, str]:
    """Return a digest of the rows of every table, and of the tree."""
    digests = {}
    for table in TABLES:
        rows = ws.store.query(f"SELECT * FROM {table} ORDER BY ALL")
        digests[table] = hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()
    size, peaks = ws.store.frontier()
    digests["tree"] = hashlib.sha256(repr((size, peaks)).encode()).hexdigest()
    return digests


def main() -> int:
    """Run the torture; print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=0.0, help="at least this long")
    parser.add_argument("--workers", type=int, default=7)
    parser.add_argument("--races", type=int, default=1000, help="rounds of two processes moving one alias")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="make the workspace here and keep it")
    wanted = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        place = wanted.keep or Path(scratch)
        root, notes = place / "ws", place / "notes"
        notes.mkdir(parents=True)
        _, status = os.waitpid(fork(lambda: prepare(root)), 0)
        if status:
            return 1
        ran = torture(root, notes, kills=wanted.kills, seconds=wanted.minutes * 60, workers=wanted.workers,
                      seed=wanted.seed)  # fmt: skip
        races = race(root, notes, wanted.races)
        begun = time.monotonic()
        found = examine(root, notes, ran.pop("pointed_at"))
        found["examined_s"] = round(time.monotonic() - begun, 1)
    found["races"] = races
    for name, value in {**ran, **found, **{f"wrong: {k}": len(v) for k, v in found["wrong"].items()}}.items():
        if name != "wrong":
            print(f"{name:<40} {value}")
    write_result("torture", {**ran, **found, "seed": wanted.seed}, packages=("duckdb",), out=wanted.out)
    fair = races["one_winner_and_the_loser_told"] == wanted.races and not races["processes_failed"]
    return 1 if any(found["wrong"].values()) or ran["dangling_reads"] or not fair else 0


if __name__ == "__main__":
    sys.exit(main())
