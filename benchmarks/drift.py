"""How often do drift detectors cry wolf, and how soon do they see refusals go from 2 % to 4 %?

    python benchmarks/drift.py [--quick] [--install-peers] [--only SECTION] [--slow 20] [--jobs 2]

`null`: 20 mixed columns in which nothing changes (binary, categorical with 8 levels, skewed numeric, lengths, and
coordinates of embeddings). Ours is the check itself (`evals.drift.check.judge`); beside it evidently's default tests
and ADWIN (river, defaults), one a column. `refusal`: a stream that changes after 500 requests; delays are counted from
the change; `windows` compares whole windows of it. `daily`: the chance of any false alarm within 90 daily checks.
`cost`: what the endpoint pays to describe a text. River runs from its own environment, `.hallmark-peers/river`, made
by `--install-peers`; without it its lines are left out. Rates come with Monte-Carlo errors (one standard error).
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["DO_NOT_TRACK"] = "1"

from benchmarks.measure import write_result
from benchmarks.peers import river_adwin as river
from evals.drift.check import judge
from evals.drift.detectors import Sequential, e_bh, watch, window_e
from evals.drift.signals import Signal
from registry.protocols import silent
from registry.traits import describe

LEVELS, ALPHA = 8, 0.05
BEFORE, AFTER, LEAD, HORIZON = 0.02, 0.04, 500, 10_000
SKEW = np.asarray([0.5, 0.2, 0.1, 0.08, 0.05, 0.04, 0.02, 0.01])
Columns = dict[str, np.ndarray[Any, Any]]


def columns(rng: np.random.Generator, size: int) -> Columns:
    """Return 20 columns of requests in which nothing changes."""
    made: Columns = {}
    for number, rate in enumerate((0.005, 0.02, 0.1, 0.5)):
        made[f"binary{number}"] = (rng.random(size) < rate).astype(float)
    for number in range(4):
        shares = np.full(LEVELS, 1 / LEVELS) if number < 2 else SKEW
        made[f"level{number}"] = rng.choice(LEVELS, size, p=shares).astype(float)
    for number in range(4):
        made[f"skewed{number}"] = rng.lognormal(0, 0.5 + number / 2, size)
    for number in range(4):
        made[f"length{number}"] = np.floor(rng.gamma(1 + number, 100, size))
    topic = rng.integers(0, 3, size)  # coordinates of one embedding move together
    for number in range(4):
        made[f"embedding{number}"] = rng.normal(size=3)[topic] * 0.2 + rng.normal(0, 0.1, size)
    return made


def signals_of(reference: Columns, current: Columns) -> list[Signal]:
    """Return the columns as the check's signals: one rate a level, and coordinates share one weight."""
    found = []
    for name, first in reference.items():
        pair = (first, current[name])
        places = tuple(range(len(pair[1])))
        if name.startswith("level"):
            for level in range(LEVELS):
                hits = [tuple((side == level).astype(float).tolist()) for side in pair]
                found.append(Signal(f"{name}:{level}", hits[0], hits[1], "", places, weight=1 / LEVELS))
            continue
        sides = [tuple(side.tolist()) for side in pair]
        found.append(Signal(name, sides[0], sides[1], "", places, weight=0.25 if "embedding" in name else 1.0))
    return found


def ours_null(reference: Columns, current: Columns) -> bool:
    """Whether the check says drift."""
    rows = [{"ts": str(number)} for number in range(len(current["binary0"]))]
    return any(finding["verdict"] == "drift" for finding in judge(signals_of(reference, current), rows, ALPHA, silent))


def evidently_null(reference: Columns, current: Columns) -> dict[str, bool]:
    """Return which columns evidently's default tests flag."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    categorical = [name for name in reference if name.startswith(("binary", "level"))]
    numeric = [name for name in reference if name not in categorical]
    definition = DataDefinition(categorical_columns=categorical, numerical_columns=numeric)

    def table(side: Columns) -> Any:
        frame = pd.DataFrame(side)
        frame[categorical] = frame[categorical].astype(int).astype(str)
        return Dataset.from_pandas(frame, data_definition=definition)

    snapshot = Report([DataDriftPreset()]).run(current_data=table(current), reference_data=table(reference))
    flagged = {}
    for metric in snapshot.dict()["metrics"]:
        config = metric["config"]
        if config["type"].endswith(":ValueDrift"):
            value, threshold = float(metric["value"]), config["threshold"]
            flagged[config["column"]] = value < threshold if "p_value" in config["method"] else value >= threshold
    return flagged


def share(hits: int, runs: int) -> list[float]:
    """Return a rate and its Monte-Carlo error."""
    rate = hits / runs
    return [round(rate, 4), round(math.sqrt(max(rate * (1 - rate), 0.0) / runs), 4)]


def measure_null(runs: int, size: int, slow: int) -> dict[str, Any]:
    """Return the null alarm rates of one check over 20 columns, in windows of `size` rows; `slow` runs of evidently."""
    rng = np.random.default_rng(size)
    ours = some = most = each = 0
    streams = []
    for run in range(runs):
        both = columns(rng, 2 * size)
        reference = {name: values[:size] for name, values in both.items()}
        current = {name: values[size:] for name, values in both.items()}
        ours += ours_null(reference, current)
        streams += [values.tolist() for values in both.values()]
        if run < slow:
            flagged = evidently_null(reference, current)
            some += any(flagged.values())
            most += sum(flagged.values()) >= len(flagged) / 2
            each += sum(flagged.values())
    key = f"null_{size}_rows"
    figures = {
        f"{key}_runs": runs,
        f"{key}_ours_any_column": share(ours, runs),
        f"{key}_evidently_runs": slow,
        f"{key}_evidently_any_column": share(some, slow),
        f"{key}_evidently_a_column": share(each, slow * 20),
        f"{key}_evidently_dataset": share(most, slow),
    }
    if river.PEER.exists():
        late = [any(place >= size for place in places) for places in river.alarms(streams)]
        hits = sum(any(late[20 * run : 20 * run + 20]) for run in range(runs))
        figures[f"{key}_adwin_any_column"] = share(hits, runs)
        figures[f"{key}_adwin_a_column"] = share(sum(late), 20 * runs)
    return figures


def rate(rng: np.random.Generator, value: float, size: int) -> list[float]:
    """Return zeros and ones."""
    return [float(hit) for hit in rng.random(size) < value]


def delays(name: str, places: Sequence[int | None]) -> dict[str, Any]:
    """Return the median delay from the change in requests, how many alarmed before it, and how many never did."""
    after = [place - LEAD for place in places if place is not None and place >= LEAD]
    early = sum(place is not None and place < LEAD for place in places)
    missed = sum(place is None for place in places)
    waits = sorted([*after, *[math.inf] * missed])
    median = statistics.median_low(waits) if waits else math.inf
    return {
        f"refusal_{name}_median_delay_requests": None if math.isinf(median) else int(median),
        f"refusal_{name}_missed": share(missed, len(places)),
        f"refusal_{name}_early": share(early, len(places)),
    }


def first(values: Sequence[float], threshold: float) -> int | None:
    """Return the first place at or above a threshold."""
    found = (np.asarray(values) >= threshold).nonzero()[0]
    return int(found[0]) if len(found) else None


def online(rng: np.random.Generator, stream: list[float], run: int) -> tuple[list[float], list[float]]:
    """Return the e-SR statistic over a stream, and the capital of the same bets without restarts (an e-process)."""
    reference, expected = rate(rng, BEFORE, HORIZON), float(np.mean(rate(rng, BEFORE, 2000)))
    detector = Sequential(reference, share=expected)
    statistic, capital, logs = [], [], np.zeros(len(detector.pays))
    for place, value in enumerate(stream):
        statistic.append(detector.feed(value, f"{run} {place}"))
        logs += np.log(detector.pays)
        capital.append(float(np.exp(np.clip(logs, -700, 600)).mean()))
    return statistic, capital


def checked(reference: list[float], stream: list[float], every: int) -> int | None:
    """Return how many requests had come when the first of repeated checks of all since the reference said drift."""
    for end in range(every, len(stream) + 1, every):
        signal = Signal("refused", tuple(reference), tuple(stream[:end]), "", tuple(range(end)))
        rows = [{"ts": str(number)} for number in range(end)]
        if judge([signal], rows, ALPHA, silent)[0]["verdict"] == "drift":
            return end - 1
    return None


def measure_refusal(runs: int) -> dict[str, Any]:
    """Return delays of a refusal rate that doubles, and false alarms in as many requests without a change."""
    rng = np.random.default_rng(1)
    changed = [rate(rng, BEFORE, LEAD) + rate(rng, AFTER, HORIZON) for _ in range(runs)]
    quiet = [rate(rng, BEFORE, HORIZON) for _ in range(runs)]
    seen = [online(rng, stream, run) for run, stream in enumerate(changed)]
    still = [online(rng, stream, run) for run, stream in enumerate(quiet)]
    figures: dict[str, Any] = {"refusal_before": BEFORE, "refusal_after": AFTER, "refusal_runs": runs}
    for name, part, threshold in (
        ("e_sr_10k", 0, HORIZON), ("e_sr_200k", 0, HORIZON / ALPHA), ("e_process_20", 1, 1 / ALPHA),
    ):  # fmt: skip
        figures |= delays(name, [first(pair[part], threshold) for pair in seen])
        alarms = sum(first(pair[part], threshold) is not None for pair in still)
        figures[f"refusal_{name}_false_alarm_in_10k"] = share(alarms, runs)
    information = AFTER * math.log(AFTER / BEFORE) + (1 - AFTER) * math.log((1 - AFTER) / (1 - BEFORE))
    figures["refusal_least_mean_delay_at_10k_requests_between_alarms"] = int(math.log(HORIZON) / information)
    pools = [rate(rng, BEFORE, HORIZON) for _ in range(runs)]
    figures |= delays(
        "check_each_500", [checked(pool, stream, 500) for pool, stream in zip(pools, changed, strict=True)]
    )
    if river.PEER.exists():
        warm = [rate(rng, BEFORE, HORIZON) for _ in range(runs)]
        found = river.alarms([first_part + rest for first_part, rest in zip(warm + warm, changed + quiet, strict=True)])
        places = [next((place - HORIZON for place in stream if place >= HORIZON), None) for stream in found]
        figures |= delays("adwin", places[:runs])
        alarms = sum(place is not None for place in places[runs:])
        figures["refusal_adwin_false_alarm_in_10k"] = share(alarms, runs)
    return figures


def measure_windows(runs: int, slow: int) -> dict[str, Any]:
    """Return how often two windows of a size, one before and one after the change, are told apart."""
    rng = np.random.default_rng(3)
    figures: dict[str, Any] = {"refusal_windows_runs": runs, "refusal_windows_evidently_runs": slow}
    for size in (500, 1000, 2000, 5000):
        ours = theirs = 0
        for run in range(runs):
            pair = [np.asarray(rate(rng, value, size)) for value in (BEFORE, AFTER)]
            ours += bool(e_bh({"refused": window_e(pair[0].tolist(), pair[1].tolist())}, ALPHA))
            if run < slow:
                theirs += evidently_null({"binary": pair[0]}, {"binary": pair[1]})["binary"]
        figures[f"refusal_windows_{size}_ours_flagged"] = share(ours, runs)
        figures[f"refusal_windows_{size}_evidently_flagged"] = share(theirs, slow)
    return figures


def measure_daily(runs: int) -> dict[str, Any]:
    """Return the chance of a false alarm within 90 daily checks of 300 requests against the 300 before."""
    rng = np.random.default_rng(2)
    days, size = 90, 300
    names = ("fixed_05_test", "check", "check_cumulative")
    alarmed = dict.fromkeys(names, 0)
    every = 0
    for _ in range(runs):
        log = rate(rng, 0.1, (days + 1) * size)
        seen = dict.fromkeys(names, False)
        for day in range(1, days + 1):
            reference, current = log[(day - 1) * size : day * size], log[day * size : (day + 1) * size]
            gap = abs(np.mean(reference) - np.mean(current))
            pooled = (np.mean(reference) + np.mean(current)) / 2
            seen["fixed_05_test"] |= bool(gap > 1.96 * math.sqrt(2 * pooled * (1 - pooled) / size))
            strength = window_e(reference, current)
            peak = float(watch(reference, current, "refused", rate=True).max()) / size
            single = strength >= 2 / ALPHA or peak >= 2 / ALPHA
            spent = ALPHA / (day * (day + 1))
            seen["check"] |= single
            seen["check_cumulative"] |= strength >= 2 / spent or peak >= 2 / spent
            every += single
        for name in names:
            alarmed[name] += seen[name]
    return {f"daily_90_days_{name}_any_false_alarm": share(alarmed[name], runs) for name in names} | {
        "daily_check_false_alarm_a_day": share(every, runs * days)
    }


def measure_cost(runs: int) -> dict[str, Any]:
    """Return what describing a text costs the endpoint, in microseconds, by its length in characters."""
    sentence = "The quick brown fox jumps over the lazy dog, and it is not sorry for that. "
    figures = {}
    for size in (100, 1000, 4000):
        text, took = (sentence * 60)[:size], []
        for _ in range(max(50, runs)):
            begun = time.perf_counter()
            describe(text, b"key")
            took.append((time.perf_counter() - begun) * 1e6)
        figures[f"describe_{size}_chars_us"] = round(statistics.median(took), 1)
    return figures


def report(figures: dict[str, Any]) -> None:
    """Print the table: a figure, and its Monte-Carlo error where it is a rate."""
    for name, value in figures.items():
        shown = f"{value[0]:8.4f} +- {value[1]:.4f}" if isinstance(value, list) else f"{value!s:>8}"
        print(f"{name:<64} {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few runs, nothing kept")
    parser.add_argument("--install-peers", action="store_true")
    parser.add_argument("--only", choices=("null", "refusal", "windows", "daily", "cost"))
    parser.add_argument("--slow", type=int, default=20, help="runs of evidently, which takes a second for each")
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate side by side")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    if chosen.install_peers and not river.PEER.exists():
        river.install()
    few, slow = chosen.quick, min(5, chosen.slow) if chosen.quick else chosen.slow
    sections: dict[str, tuple[Callable[..., dict[str, Any]], tuple[int, ...]]] = {
        "null 500": (measure_null, (5 if few else 100, 500, slow)),
        "null 2000": (measure_null, (5 if few else 40, 2000, slow)),
        "refusal": (measure_refusal, (5 if few else 40,)),
        "windows": (measure_windows, (5 if few else 40, slow)),
        "daily": (measure_daily, (5 if few else 100,)),
    }
    wanted = {name: work for name, work in sections.items() if name.startswith(chosen.only or "")}
    figures: dict[str, Any] = {"alpha": ALPHA, "null_columns": 20, "river": river.locked_version()}
    with ProcessPoolExecutor(chosen.jobs) as pool:
        begun = {name: pool.submit(work, *numbers) for name, (work, numbers) in wanted.items()}
        for name, running in begun.items():
            figures |= running.result()
            print(f"{name}: done", file=sys.stderr)
    if chosen.only in (None, "cost"):
        figures |= measure_cost(50 if few else 500)
    report(figures)
    if few or chosen.only:
        return
    write_result("drift", figures, packages=("evidently", "numpy", "scipy", "pandas"))


if __name__ == "__main__":
    main()
