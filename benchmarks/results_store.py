"""Result rows in the store: ingest, and the paired clustered comparison of two candidates, beside pandas and inspect.

    python -P benchmarks/results_store.py [--quick]

Rows are those of a real workspace: Parquet blobs of EvalRuns (one a look, as `gate run` leaves them), registered and
ingested into the projection with all its columns, then compared by `evals.paired_runs.compare_runs`. pandas reads the
same blobs and does the same arithmetic; inspect-ai's `samples_df` reads logs that hold the same samples, of a size it
can manage. Rounds of ours and theirs take turns; figures are medians. The projection is a pair of files: rows that are
ingested run by run are in time written to both, rows of one batch (`ingest_rows_per_s`) to one.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.measure import write_result  # noqa: E402
from evals.paired_runs import PairedKpi, compare_runs  # noqa: E402
from evals.results import Results  # noqa: E402
from evals.samples import Row, encode, read_table, schema, write_table  # noqa: E402
from registry.records import EvalRun  # noqa: E402
from registry.workspace import Workspace  # noqa: E402

KPIS = 5
CLUSTER = 20
"""Samples of a cluster, on average."""
PANDAS_GIB = 12
"""Memory that pandas is given for the large comparison; with less it is left out."""
KEYS = ["kpi", "sample_id", "epoch"]
GOALS = {"ingest_rows_per_s": ">= 300,000", "paired_10m_rows_s": "< 5"}


# ---- rows ----------------------------------------------------------------------------------------------------------


def ids(start: int, count: int) -> Any:
    """Return sample ids of 32 hexadecimal digits, equal for equal numbers."""
    words = np.random.default_rng(start).bytes(16 * count).hex()
    return pa.array(np.frombuffer(words.encode(), dtype="S32").astype("U32"))


def sentence(before: str, numbers: Any, after: str) -> Any:
    """Return one text a number."""
    return pc.binary_join_element_wise(before, pa.array(numbers).cast(pa.string()), after, "")


def rows(start: int, count: int, seed: int) -> Any:
    """Return the rows of one run over the samples from `start` on, as an Arrow table of the blob's schema."""
    random = np.random.default_rng([seed, start])
    numbers = np.arange(start, start + count)
    cluster = np.random.default_rng([start, 1]).integers(0, max(count // CLUSTER, 50), count) + start
    skill = np.random.default_rng([start, 2]).random(count)
    languages = pa.array(['{"language": "de"}', '{"language": "en"}'])
    columns = {
        "sample_id": ids(start, count),
        "kpi": sentence("kpi_", np.arange(count) % KPIS, ""),
        "epoch": np.zeros(count, dtype=np.int32),
        "value": (skill + 0.2 * random.standard_normal(count) < 0.7) * 1.0,
        "weight": np.ones(count),
        "cluster": sentence("ticket-", cluster, ""),
        "error": pa.repeat(pa.scalar(""), count),
        "detail": sentence('{"input": "question ', numbers, ' about an order", "target": "some answer"}'),
        "slices": languages.take(pa.array(np.arange(count) % 2)),
        "output": sentence("the answer to that is ", numbers * 7919 % 100_003, ", as the page says"),
        "latency_ms": np.round(random.gamma(4, 60, count), 1),
        "prompt_tokens": random.integers(50, 900, count),
        "completion_tokens": random.integers(5, 300, count),
        "scorer": pa.repeat(pa.scalar("sha256:" + "5" * 64), count),
    }
    return pa.table(columns, schema=schema()).sort_by([(name, "ascending") for name in KEYS])


class Ingest:
    """A workspace with the rows of two candidates; `runs` and `blobs` are ids and digests, a list a candidate.

    `wall` and `cpu` are the seconds that it took from a blob's bytes to rows that can be queried: storing and
    registering the run, and ingesting it.
    """

    def __init__(self, ws: Workspace) -> None:
        self.ws, self.wall, self.cpu = ws, 0.0, 0.0
        self.runs: list[list[str]] = [[], []]
        self.blobs: list[list[str]] = [[], []]

    def fill(self, total: int, looks: int, *, each: bool) -> None:
        """Store rows, each candidate's in `looks` runs; ingest `each` run by itself, else all of them at the end."""
        count = total // 2 // looks
        for look in range(looks):
            for side in range(2):
                data = write_table(rows(look * count, count, side))
                with self._measured():
                    self.add(data, side, look)
                    if each:
                        self.ws.store.sync()
        with self._measured():
            self.ws.store.sync()

    def add(self, data: bytes, side: int, look: int) -> None:
        """Store and register one run of a candidate."""
        blob = self.ws.artifacts.add_bytes(data, "application/vnd.apache.parquet")
        counts = {f"kpi_{kpi}": len(data) for kpi in range(KPIS)}
        run = EvalRun(f"sha256:{side:064x}", "sha256:s", {}, blob, counts, counts, {}, {}, {}, "", str(look))
        self.runs[side].append(self.ws.register(run, actor="operator").id)
        self.blobs[side].append(blob)

    @contextmanager
    def _measured(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


# ---- peers ---------------------------------------------------------------------------------------------------------


def frame(ws: Workspace, blobs: list[str], columns: list[str] | None = None) -> Any:
    """Return the rows of blobs as one pandas frame, as pandas reads Parquet."""
    return pd.concat(
        [pd.read_parquet(io.BytesIO(ws.artifacts.read_bytes(blob)), columns=columns) for blob in blobs],
        ignore_index=True,
    )


def with_pandas(one: Any, two: Any) -> dict[str, tuple[float, float]]:
    """Return difference and clustered standard error by KPI: the same arithmetic, written plainly."""
    pairs = one.merge(two, on=KEYS, how="outer", suffixes=("", "_b"), indicator=True)
    if (pairs["_merge"] != "both").any():
        raise SystemExit("samples lack their pair")
    pairs["change"] = pairs["value"] - pairs["value_b"]
    samples = pairs.groupby(["kpi", "sample_id"], as_index=False).agg(
        cluster=("cluster", "first"), change=("change", "mean"), weight=("weight", "mean")
    )
    units = samples.groupby(["kpi", "cluster"], as_index=False)[["change", "weight"]].sum()
    found = {}
    for kpi, group in units.groupby("kpi"):
        total, count = group["weight"].sum(), len(group)
        theta = group["change"].sum() / total
        residuals = group["change"] - theta * group["weight"]
        found[str(kpi)] = (theta, math.sqrt(count / (count - 1) * (residuals**2).sum()) / total)
    return found


def inspect_log(count: int, seed: int, folder: Path) -> str:
    """Write a log of inspect that holds `count` of the same samples; return its path."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score

    table = rows(0, count, seed).to_pylist()
    samples = []
    for row in table:
        usage = ModelUsage(input_tokens=row["prompt_tokens"], output_tokens=row["completion_tokens"])
        choice = ChatCompletionChoice(message=ChatMessageAssistant(content=row["output"]))
        output = ModelOutput(model="m", choices=[choice], usage=usage)
        shown = json.loads(row["detail"])
        samples.append(
            EvalSample(
                id=row["sample_id"], epoch=1, input=shown["input"], target=shown["target"], output=output,
                scores={row["kpi"]: Score(value=row["value"], answer=row["output"])}, model_usage={"m": usage},
                metadata={"cluster": row["cluster"], "language": "de"}, total_time=row["latency_ms"] / 1000,
            )
        )  # fmt: skip
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00", task="t", dataset=EvalDataset(), model="m", config=EvalConfig()
    )
    path = str(folder / f"log-{seed}.eval")
    write_eval_log(EvalLog(status="success", eval=spec, samples=samples), path)
    return path


# ---- sections ------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds some work took, and what it returned."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def turns(works: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Do the works in turn, `rounds` times; return the median seconds and the last result of each."""
    took: dict[str, list[float]] = {name: [] for name in works}
    found = {}
    for _ in range(rounds):
        for name, work in works.items():
            seconds, found[name] = timed(work)
            took[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in took.items()}, found


def check_equal(ours: list[PairedKpi], theirs: dict[str, tuple[float, float]]) -> None:
    """Stop unless both ways gave the same numbers."""
    for row in ours:
        if row.problems or row.difference is None or row.error is None:
            raise SystemExit(f"{row.kpi}: {row.problems}")
        if not np.allclose((row.difference, row.error), theirs[row.kpi], rtol=1e-9):
            raise SystemExit(f"{row.kpi}: {row} and {theirs[row.kpi]} differ")


def measure_million(folder: Path, total: int, rounds: int) -> dict[str, Any]:
    """Ingest one million rows run by run, and query them in turn with pandas."""
    made = Ingest(Workspace.create(folder / "million"))
    made.fill(total, 4, each=True)
    needed = [*KEYS, "value", "weight", "cluster"]
    frames = [frame(made.ws, side) for side in made.blobs]
    blob = made.ws.artifacts.read_bytes(made.blobs[0][0])
    seconds, found = turns(
        {
            "ours": lambda: compare_runs(made.ws, *made.runs),
            "pandas": lambda: with_pandas(*frames),
            "from_disk": lambda: with_pandas(*(frame(made.ws, side, needed) for side in made.blobs)),
            "read_gate": lambda: Results.from_table("c", read_table(blob), {}, {}),
            "read_pandas": lambda: pd.read_parquet(io.BytesIO(blob)),
        },
        rounds,
    )
    check_equal(found["ours"], found["pandas"])
    made.ws.close()
    return {
        "rows": total, "ingest_run_by_run_rows_per_s": round(total / made.wall),
        "ingest_run_by_run_rows_per_cpu_s": round(total / made.cpu), "paired_1m_rows_s": round(seconds["ours"], 3),
        "paired_1m_pandas_s": round(seconds["pandas"], 3),
        "paired_1m_pandas_from_disk_s": round(seconds["from_disk"], 3),
        "paired_1m_vs_pandas": round(seconds["pandas"] / seconds["ours"], 1),
        "paired_1m_vs_pandas_from_disk": round(seconds["from_disk"] / seconds["ours"], 1),
        "gate_reads_rows_per_s": round(total / 8 / seconds["read_gate"]),
        "pandas_reads_rows_per_s": round(total / 8 / seconds["read_pandas"]),
    }  # fmt: skip


def measure_ten_million(folder: Path, total: int, rounds: int) -> dict[str, Any]:
    """Ingest ten million rows at once and query them; pandas once, on the columns it needs, already in memory."""
    made = Ingest(Workspace.create(folder / "ten"))
    made.fill(total, 8, each=False)
    cpu = time.process_time()
    seconds, found = turns({"ours": lambda: compare_runs(made.ws, *made.runs)}, rounds)
    cpu = (time.process_time() - cpu) / rounds
    size = made.ws.store.current.stat().st_size if made.ws.store.current else 0
    figures = {
        "large_rows": total, "ingest_rows_per_s": round(total / made.wall),
        "ingest_rows_per_cpu_s": round(total / made.cpu), "paired_10m_rows_s": round(seconds["ours"], 2),
        "paired_10m_cpu_s": round(cpu, 2), "bytes_per_row": round(size / total, 1),
    }  # fmt: skip
    if available_gib() < PANDAS_GIB:
        print("too little memory for pandas at this size: left out", file=sys.stderr)
        return figures
    frames = [frame(made.ws, side, [*KEYS, "value", "weight", "cluster"]) for side in made.blobs]
    pandas, theirs = timed(lambda: with_pandas(*frames))
    check_equal(found["ours"], theirs)
    made.ws.close()
    return {**figures, "paired_10m_pandas_s": round(pandas, 2),
            "paired_10m_vs_pandas": round(pandas / seconds["ours"], 1)}  # fmt: skip


def available_gib() -> float:
    """Return how much memory may be used without anything else having to go."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), math.inf)


def measure_inspect(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Read the same samples from inspect's logs and from our blobs, each into what a comparison starts from."""
    from inspect_ai.analysis import samples_df

    logs = [inspect_log(count, seed, folder) for seed in (0, 1)]
    tables = [write_table(rows(0, count, seed)) for seed in (0, 1)]
    numbers = iter(range(1_000_000))
    made = Ingest(Workspace.create(folder / "inspect"))

    def ours() -> None:
        number = next(numbers)
        for side, data in enumerate(tables):
            made.add(data, side, number)
        made.ws.store.sync()

    seconds, found = turns({"ours": ours, "theirs": lambda: samples_df(logs, quiet=True)}, rounds)
    if len(found["theirs"]) != 2 * count:
        raise SystemExit("samples_df lost rows")
    made.ws.close()
    return {
        "inspect_rows": 2 * count, "inspect_samples_df_rows_per_s": round(2 * count / seconds["theirs"]),
        "same_rows_ingest_rows_per_s": round(2 * count / seconds["ours"]),
        "ingest_vs_samples_df": round(seconds["theirs"] / seconds["ours"], 1),
    }  # fmt: skip


def measure_encode(count: int, rounds: int) -> dict[str, Any]:
    """Turn row objects, as harnesses make them, into a blob."""
    made = [Row(**row) for row in rows(0, count, 0).to_pylist()]
    seconds, _ = turns({"encode": lambda: encode(made)}, rounds)
    return {"encode_rows_per_s": round(count / seconds["encode"])}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the repository's own disk, not on one that lives in memory."""
    with tempfile.TemporaryDirectory(prefix=".hallmark-bench-", dir=HERE.parent) as name:
        yield Path(name)


def report(figures: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'figure':<34}{'measured':>14}   goal")
    for name, value in figures.items():
        print(f"{name:<34}{value:>14,}   {GOALS.get(name, '')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, nothing kept")
    quick = parser.parse_args().quick
    rounds = 2 if quick else 3
    figures: dict[str, Any] = {"rounds": rounds}
    with scratch() as folder:
        figures |= measure_encode(20_000 if quick else 200_000, rounds)
        figures |= measure_inspect(folder, 500 if quick else 2_000, rounds)
        figures |= measure_million(folder, 200_000 if quick else 1_000_000, rounds)
    with scratch() as folder:
        figures |= measure_ten_million(folder, 1_000_000 if quick else 10_000_000, rounds)
    report(figures)
    if quick:
        print(json.dumps(figures))
    else:
        write_result("results_store", figures, packages=("duckdb", "pyarrow", "pandas", "inspect-ai"))


if __name__ == "__main__":
    main()
