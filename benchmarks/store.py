"""The registry under load: durable records, registration against MLflow, rebuild, lineage, readers beside writers.

    python -P benchmarks/store.py [--quick] [--install-peers]

Every section uses the product's own functions and real processes on this machine's disk; a record counts once fsync has
returned. MLflow's sqlite registry runs in the same minutes, with as many processes, from its own environment
`.hallmark-peers/mlflow`, made from `benchmarks/peers/mlflow.txt` by `--install-peers`; without it, the rest is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.measure import write_result  # noqa: E402
from benchmarks.peers import mlflow_registry as mlflow  # noqa: E402
from registry import aliases  # noqa: E402
from registry.changes import difference  # noqa: E402
from registry.errors import Refused  # noqa: E402
from registry.lineage import ancestry  # noqa: E402
from registry.records import Certificate, ModelVersion, Release, Run  # noqa: E402
from registry.workspace import Workspace  # noqa: E402

WRITERS = 4
BODY = {"endpoint": "prod", "principal": "mia", "action": "allow", "rules": ["pii"], "status": 200, "latency_ms": 1.5}
GOALS = {
    "durable_records_per_s": ">= 10,000", "durable_p99_ms": "< 25", "register_vs_mlflow": ">= 5",
    "rebuild_records_per_s": ">= 200,000", "difference_ms": "< 100", "ancestry_depth8_p95_ms": "< 200",
}  # fmt: skip


# ---- what a child does ---------------------------------------------------------------------------------------------


def start() -> float:
    """Say that this child is ready; return when it was told to begin."""
    print("ready", flush=True)
    return float(input())


def append(root: Path, seconds: float, threads: int) -> dict[str, Any]:
    """Append single records from a number of threads, each waiting for the disk."""
    ws = Workspace.open(root)
    ws.journal.append([("warm.up", "s", {}, "bench")])
    took: list[list[float]] = [[] for _ in range(threads)]

    begin = start()

    def write(mine: list[float]) -> None:
        while time.time() < begin + seconds:
            one = time.perf_counter()
            ws.journal.append([("gateway.intent", "r", BODY, "endpoint:prod")])
            mine.append((time.perf_counter() - one) * 1000)

    running = [threading.Thread(target=write, args=(mine,)) for mine in took]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {"ms": [one for mine in took for one in mine]}


def register(root: Path, seconds: float, mark: int) -> dict[str, Any]:
    """Register versions and move an alias to each; the move compares and sets, and replaces the pointer file."""
    ws = Workspace.open(root)
    certificate = ws.assets("certificate")[0].id
    with ws.store.lock():
        ws.store.state()
    took = []
    number, begin = 0, start()
    while time.time() < begin + seconds:
        one = time.perf_counter()
        version = ws.register(version_of(f"{os.getpid()}-{mark}-{number}"), actor="operator", name="code")
        release = Release("prod", certificate, "sha256:c", version.id, str(number), "benchmark")
        aliases.move(ws, release, None, "operator")
        took.append((time.perf_counter() - one) * 1000)
        number += 1
    return {"ms": took}


def race(root: Path, seconds: float, mark: int) -> dict[str, Any]:
    """Try to move one alias `seconds` times from where it was seen; return how often that worked."""
    ws = Workspace.open(root)
    certificate = ws.assets("certificate")[0].id
    won = 0
    start()
    for number in range(int(seconds)):
        seen = aliases.head(ws, "race")
        expected = seen.id if seen else ""
        release = Release("race", certificate, f"sha256:{mark}", f"sha256:{mark}-{number}", str(number), expected)
        try:
            aliases.move(ws, release, expected, "operator")
            won += 1
        except Refused:
            continue
    return {"ms": [], "won": won}


CHILDREN: dict[str, Callable[[Path, float, int], dict[str, Any]]] = {
    "append": append, "register": register, "race": race,
}  # fmt: skip


def together(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Run children that begin together, once all are ready; return what each printed last."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for command in commands]
    for child in running:
        child.stdout.readline()
    for child in running:
        child.stdin.write(f"{time.time()}\n")
        child.stdin.flush()
    said = [child.stdout.read() for child in running]
    if any([child.wait() for child in running]):
        raise SystemExit("a child failed: see above")
    return [json.loads(text.splitlines()[-1]) for text in said]


def children(name: str, root: Path, seconds: float, count: int, number: int | None = None) -> list[dict[str, Any]]:
    """Run `count` children of this script at once; each gets `number`, or its own place."""
    own = [sys.executable, "-P", str(HERE / "store.py"), "--child", name, "--root", str(root)]
    return together([
        [*own, "--seconds", str(seconds), "--number", str(place if number is None else number)]
        for place in range(count)
    ])  # fmt: skip


def rate(found: list[dict[str, Any]], seconds: float) -> tuple[float, float, float]:
    """Return (operations a second, p50 ms, p99 ms)."""
    took = sorted(one for each in found for one in each["ms"])
    return len(took) / seconds, statistics.median(took), took[int(len(took) * 0.99)]


# ---- sections ------------------------------------------------------------------------------------------------------


def measure_durable(folder: Path, seconds: float) -> dict[str, Any]:
    ws = made(folder / "durable")
    figures: dict[str, Any] = {}
    for name, threads in (("durable", 16), ("durable_alone", 1)):
        per_s, p50, p99 = rate(children("append", ws.root, seconds, WRITERS, threads), seconds)
        figures |= {f"{name}_records_per_s": round(per_s), f"{name}_p50_ms": round(p50, 2),
                    f"{name}_p99_ms": round(p99, 2), f"{name}_threads": threads}  # fmt: skip
    return figures


def measure_register(folder: Path, seconds: float) -> dict[str, Any]:
    """Ours and MLflow in turn, twice each; the medians of the two."""
    ws = made(folder / "register")
    database = f"sqlite:///{folder}/mlflow.db"
    peer, peer_command = mlflow.PYTHON.exists(), [str(mlflow.PYTHON), str(mlflow.HERE / "mlflow_registry.py"), database]
    if peer:
        subprocess.run([*peer_command, "0"], check=True)
    else:
        print(f"MLflow is not installed in {mlflow.PEER}: run with --install-peers; the rest follows", file=sys.stderr)
    ours, theirs, failed = [], [], 0
    for _ in range(2):
        ours.append(rate(children("register", ws.root, seconds, WRITERS), seconds))
        if peer:
            found = together([[*peer_command, str(seconds)]] * WRITERS)
            theirs.append(rate(found, seconds))
            failed += sum(each["failed"] for each in found)
    figures: dict[str, Any] = {}
    for name, runs in (("register", ours), ("mlflow", theirs)):
        for index, unit in enumerate(("per_s", "p50_ms", "p99_ms")):
            if runs:
                figures[f"{name}_{unit}"] = round(statistics.median(run[index] for run in runs), 2)
    if peer:
        figures["mlflow_failed"] = failed
        figures["register_vs_mlflow"] = round(figures["register_per_s"] / figures["mlflow_per_s"], 2)
    return figures


def measure_race(folder: Path, tries: int) -> dict[str, Any]:
    """Two processes promote to one alias: every move must start from the one before it."""
    ws = made(folder / "race")
    won = sum(each["won"] for each in children("race", ws.root, tries / 2, 2))
    rows = ws.store.query("SELECT release, reason FROM alias_history WHERE alias = 'race' ORDER BY seq")
    lost = sum(row["reason"] != (rows[index - 1]["release"] if index else "") for index, row in enumerate(rows))
    return {"race_tries": tries, "race_won": won, "race_moves": len(rows), "race_lost_updates": lost}


def measure_rebuild(folder: Path, count: int) -> dict[str, Any]:
    ws = made(folder / "rebuild")
    for start in range(0, count, 1000):
        ws.journal.append([("gateway.intent", f"r{n}", BODY, "endpoint:prod") for n in range(start, start + 1000)])
    ws.store.sync()
    before, best = ws.store.frontier(), 0.0
    for _ in range(3):
        begun = time.perf_counter()
        events = ws.store.rebuild()
        best = max(best, events / (time.perf_counter() - begun))
    return {"rebuild_records": events, "rebuild_records_per_s": round(best), "rebuild_same_tree":
            ws.store.frontier() == before}  # fmt: skip


def measure_readers(folder: Path, seconds: float) -> dict[str, Any]:
    """Query while four writers append, each waiting for the disk; the query ingests what they wrote."""
    ws = made(folder / "readers")
    took: list[float] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            one = time.perf_counter()
            ws.store.query("SELECT count(*) AS n FROM event WHERE kind = 'gateway.intent'")
            took.append((time.perf_counter() - one) * 1000)
            time.sleep(0.02)

    reader = threading.Thread(target=read)
    reader.start()
    found = children("append", ws.root, seconds, WRITERS, 1)
    done.set()
    reader.join()
    took.sort()
    return {"reader_p50_ms": round(statistics.median(took), 1), "reader_p99_ms": round(took[int(len(took) * 0.99)], 1),
            "reader_queries": len(took), "reader_beside_records_per_s": round(rate(found, seconds)[0])}  # fmt: skip


def measure_lineage(folder: Path, edges: int) -> dict[str, Any]:
    """A graph of versions with five parents each among the two hundred before it; sixty walks, the first one cold."""
    ws = made(folder / "lineage")
    count, drafts = edges // 5, []
    for number in range(count):
        parents = [["base", ident(number - 1 - (number * 7919 + step * 104729) % 200)] for step in range(5)]
        body = {"kind": "note", "name": "n", "number": number + 1, "body": {}, "parents": parents}
        drafts.append(("asset.registered", ident(number), body, "operator"))
        if len(drafts) == 2000:
            ws.journal.append(drafts)
            drafts = []
    ws.journal.append(drafts or [("count", "s", {}, "operator")])
    begun = time.perf_counter()
    ws.store.sync()
    ingest = count / (time.perf_counter() - begun)
    one, two = (ws.register(version_of(mark, ws), actor="operator", name="code") for mark in "ab")
    walks, changes = [], []
    for number in range(60):
        start = time.perf_counter()
        found = ancestry(ws, ident(count - 1 - number * (count // 120)), 8)
        walks.append((time.perf_counter() - start) * 1000)
        start = time.perf_counter()
        difference(ws, one.id, two.id)
        changes.append((time.perf_counter() - start) * 1000)
    walks.sort()
    return {"lineage_edges": ws.store.query("SELECT count(*) AS n FROM edge")[0]["n"], "ancestors": len(found),
            "lineage_ingest_assets_per_s": round(ingest), "ancestry_depth8_p50_ms": round(statistics.median(walks), 1),
            "ancestry_depth8_p95_ms": round(walks[int(len(walks) * 0.95)], 1),
            "difference_ms": round(statistics.median(changes), 1)}  # fmt: skip


# ---- data ----------------------------------------------------------------------------------------------------------


def ident(number: int) -> str:
    """Return a made-up asset id."""
    return f"sha256:{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}{number % (1 << 32):048x}"


def version_of(mark: str, ws: Workspace | None = None) -> ModelVersion:
    """Return a version; with a workspace, one whose run and files are registered there."""
    if ws is None:
        return ModelVersion("code", "sha256:" + "0" * 64, None, None, [], "Mistral", 1, {"w": mark})
    run = Run("sft", "sha256:r", {"name": "code", "rate": mark}, [], None, mark, 1, 1, {"loss": 0.5}, {"seed": mark})
    model = ws.work("model", mark)
    (model / "model.safetensors").write_bytes(mark.encode() * 1000)
    manifest = ws.artifacts.add_tree(model)
    digest = manifest.entries[0].sha256
    asset = ws.register(run, actor="operator")
    return ModelVersion("code", manifest.id, asset.id, None, [], "Mistral", 1, {"model.safetensors": digest})


def made(root: Path) -> Workspace:
    """Return a new workspace with one certificate, for aliases to point at."""
    ws = Workspace.create(root)
    ws.register(Certificate("sha256:c", "sha256:v", "sha256:d", "2099-01-01T00:00:00+00:00", {}), actor="operator")
    return ws


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the repository's own disk, not on one that lives in memory."""
    with tempfile.TemporaryDirectory(prefix=".hallmark-bench-", dir=HERE.parent) as name:
        yield Path(name)


def report(figures: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'figure':<34}{'measured':>14}   goal")
    for name, value in figures.items():
        shown = f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        print(f"{name:<34}{shown:>14}   {GOALS.get(name, '')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, nothing kept")
    parser.add_argument("--install-peers", action="store_true")
    parser.add_argument("--only", help="one section")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=1, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(CHILDREN[chosen.child](chosen.root, chosen.seconds, chosen.number)))
        return
    if chosen.install_peers and not mlflow.PYTHON.exists():
        mlflow.install()
    seconds = 1.5 if chosen.quick else 5.0
    sections: dict[str, Callable[[Path], dict[str, Any]]] = {
        "durable": lambda folder: measure_durable(folder, seconds),
        "register": lambda folder: measure_register(folder, seconds),
        "race": lambda folder: measure_race(folder, 100 if chosen.quick else 1000),
        "rebuild": lambda folder: measure_rebuild(folder, 50_000 if chosen.quick else 300_000),
        "readers": lambda folder: measure_readers(folder, seconds),
        "lineage": lambda folder: measure_lineage(folder, 100_000 if chosen.quick else 1_000_000),
    }
    figures: dict[str, Any] = {"writers": WRITERS, "mlflow": mlflow.locked_version()}
    with scratch() as folder:
        for name, section in sections.items():
            if chosen.only in (None, name):
                print(f"{name} ...", file=sys.stderr)
                figures |= section(folder)
    report(figures)
    if chosen.quick or chosen.only:
        print(json.dumps(figures))
    else:
        write_result("store", figures, packages=("duckdb", "pyarrow", "orjson"))


if __name__ == "__main__":
    main()
