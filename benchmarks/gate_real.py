"""The gate on real models: A/A splits of real results, a candidate worse by exactly the margin, planted regressions.

python benchmarks/gate_real.py --workspace DIR [--splits 100]

Per-sample results come from models trained here, through the real harness. A split takes a random four fifths of the
documents and, document by document, swaps the labels of two models that differ in their seed alone: given the results,
the true difference is then exactly zero. For the shifted null one side is made worse by exactly the margin: right
answers are turned into wrong ones at random (bits are multiplied). Each split is judged with planned looks, one KPI at
a time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import write_result
from evals import gate
from evals.controls import evaluate_controls, read_controls
from evals.decision import Decision
from evals.evaluate import Evaluation
from evals.reading import read
from evals.results import ControlResult, KpiResults, Results
from evals.suite import SuiteSpec
from registry import specs
from registry.workspace import Workspace

LOOKS = 8
SHARE = 0.8
"""Of the documents, in each split."""
SUITE = """\
suite: real
version: 1
canary: real-models-canary-0123456789
gate: {alpha: 0.05, mode: group_sequential, looks: 8, order_seed: 1}
kpis:
  - {id: domain_bpb, harness: lm-eval, task: bits_per_byte, data: "dataset:stdlib#domain_holdout", samples: BITS,
     direction: lower, cluster: id, control: null_model, rule: {type: noninferior, margin: 0.03, scale: ratio}}
  - {id: next_line, harness: lm-eval, task: next_line, data: "dataset:stdlib#domain_holdout", samples: LINES,
     direction: higher, cluster: id, control: null_model, rule: {type: noninferior, margin: 0.05}}
"""
ANSWERS = """\
suite: real-answers
version: 1
canary: real-models-canary-0123456789
gate: {alpha: 0.05, mode: group_sequential, looks: 8, order_seed: 1}
kpis:
  - {id: line_kind, harness: lm-eval, task: kind.yaml, data: kinds.jsonl, samples: KINDS, metric: acc,
     direction: higher, range: [0, 1], control: null_model, rule: {type: noninferior, margin: 0.05}}
"""
TASK = """\
task: line_kind
dataset_path: json
test_split: test
output_type: multiple_choice
doc_to_text: "{{line}}"
doc_to_choice: ["branch", "class", "exit", "function", "import", "loop"]
doc_to_target: kind
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1, apply_chat_template: true}
"""


@dataclass(frozen=True)
class Judged:
    """How a test of a real candidate went: the decision at its end, and the first look at which a KPI failed."""

    decision: Decision
    looks: int
    failed_at: dict[str, int]
    seconds: float


def write_suites(ws: Workspace, *, bits: int, lines: int, kinds: int) -> tuple[Path, Path]:
    """Write both suites and the chat task; return their files."""
    from benchmarks.real_models import write_questions

    folder = ws.root / "specs" / "real"
    folder.mkdir(parents=True, exist_ok=True)
    count = write_questions(ws, folder / "kinds.jsonl", kinds)
    (folder / "kind.yaml").write_text(TASK)
    (folder / "code.yaml").write_text(SUITE.replace("BITS", str(bits)).replace("LINES", str(lines)))
    (folder / "answers.yaml").write_text(ANSWERS.replace("KINDS", str(count)))
    return folder / "code.yaml", folder / "answers.yaml"


def judge(ws: Workspace, suite: Path, candidate: str, baseline: str) -> Judged:
    """Measure and decide look by look, as `gate run` does, until nothing is open or no look is left."""
    began = time.monotonic()
    spec = specs.load(suite, SuiteSpec)
    evaluate_controls(ws, baseline, suite, actor="evaluator")
    history: list[Decision] = []
    failed: dict[str, int] = {}
    with (
        Evaluation(ws, candidate, suite, actor="evaluator") as ours,
        Evaluation(ws, baseline, suite, actor="evaluator") as theirs,
    ):
        sizes = {each.kpi.id: each.sizes(LOOKS) for each in ours.instruments}
        for look in range(LOOKS):
            due = {kpi: each[look] for kpi, each in sizes.items()}
            results = []
            for side in (ours, theirs):
                side.measure(due)
                results.append(read(ws, side.suite, side.instruments, side.candidate.id, due)[0])
            controls, _ = read_controls(ws, ours.suite, ours.instruments, due)
            history.append(gate.decide(spec, results[0], results[1], controls=controls, history=history))
            for item in history[-1].kpis:
                if item.verdict == "FAIL":
                    failed.setdefault(item.kpi, look + 1)
            if history[-1].final or history[-1].verdict in ("FAIL", "INVALID"):
                break
    return Judged(history[-1], len(history), failed, time.monotonic() - began)


def full(ws: Workspace, suite: Path, candidate: str) -> tuple[Results, Mapping[str, ControlResult]]:
    """Return all rows of a candidate on a suite, measured where they are missing, and the controls'."""
    evaluate_controls(ws, candidate, suite, actor="evaluator")
    with Evaluation(ws, candidate, suite, actor="evaluator") as evaluation:
        evaluation.measure()
        found, _ = read(ws, evaluation.suite, evaluation.instruments, evaluation.candidate.id)
        return found, read_controls(ws, evaluation.suite, evaluation.instruments)[0]


class Splits:
    """Tests on random halves of the documents of one KPI, with the labels of two equal models swapped at random."""

    def __init__(
        self, spec: SuiteSpec, kpi: str, one: Results, two: Results, controls: Mapping[str, ControlResult]
    ) -> None:  # fmt: skip
        self.kpi = next(each for each in spec.kpis if each.id == kpi)
        self.spec = spec
        self.columns = [_sorted(results.kpis[kpi]) for results in (one, two)]
        self.control = _sorted(next(c for c in controls.values() if kpi in c.results.kpis).results.kpis[kpi])
        if any((c.sample_ids != self.columns[0].sample_ids).any() for c in (self.columns[1], self.control)):
            raise SystemExit(f"`{kpi}`: the models were measured on different samples")
        self.clusters = np.unique(self.columns[0].clusters.astype(str))

    def run(self, seed: int, *, shifted: bool) -> tuple[str, int]:
        """Return the verdict of one split and the look at which it fell."""
        draws = np.random.default_rng(seed)
        part = draws.permutation(self.clusters)[: int(SHARE * len(self.clusters))]
        owner = self.columns[0].clusters.astype(str)
        place = {name: number for number, name in enumerate(part.tolist())}
        ranks = np.array([place.get(name, -1) for name in owner.tolist()])
        order = np.argsort(ranks, kind="stable")[int((ranks < 0).sum()) :]
        swapped = draws.random(len(part))[ranks[order]] < 0.5
        first, second = (column.values for column in self.columns)
        ours = np.where(swapped, second[order], first[order])
        theirs = np.where(swapped, first[order], second[order])
        if shifted:
            ours = self._worse(ours, draws)
        return self._looks(order, ranks[order], ours, theirs)

    def _worse(self, values: Any, draws: np.random.Generator) -> Any:
        """Return values that are worse by exactly the margin, in expectation over splits and flips."""
        margin = self.kpi.rule.margin
        if getattr(self.kpi.rule, "scale", "absolute") == "ratio":
            return values * (1.0 + margin)
        share = float(np.mean([column.values.mean() for column in self.columns]))
        return np.where((values == 1.0) & (draws.random(len(values)) < margin / share), 0.0, values)

    def _looks(self, order: Any, ranks: Any, ours: Any, theirs: Any) -> tuple[str, int]:
        count, groups = len(order), int(ranks.max()) + 1
        kpi = self.kpi.model_copy(update={"samples": count})
        spec = self.spec.model_copy(update={"kpis": (kpi,)})
        largest = int(np.bincount(ranks).max())
        history: list[Decision] = []
        sizes = [int((ranks < math.ceil(groups * (look + 1) / LOOKS)).sum()) for look in range(LOOKS)]
        for due in sizes:
            shape = {"due": due, "planned": count, "clusters_planned": groups, "largest": largest}
            sides = [self._results(name, order[:due], values[:due], shape)
                     for name, values in (("ours", ours), ("theirs", theirs),
                                          ("control", self.control.values[order]))]  # fmt: skip
            controls = {"null_model": ControlResult("null_model", sides[2])}
            history.append(gate.decide(spec, sides[0], sides[1], controls=controls, history=history))
            if history[-1].final or history[-1].verdict == "INVALID":
                break
        return history[-1].verdict, len(history)

    def _results(self, name: str, order: Any, values: Any, shape: Mapping[str, int]) -> Results:
        column = self.columns[0]
        rows = replace(
            column, sample_ids=column.sample_ids[order], values=values, weights=column.weights[order],
            clusters=column.clusters[order], errors=column.errors[order], epochs=column.epochs[order],
            slices={}, **shape,
        )  # fmt: skip
        return Results(name, {self.kpi.id: rows})


def _sorted(rows: KpiResults) -> KpiResults:
    order = np.argsort(rows.sample_ids.astype(str))
    fields = ("sample_ids", "values", "weights", "clusters", "errors", "epochs")
    return replace(rows, slices={}, **{name: getattr(rows, name)[order] for name in fields})


def splits_of(splits: Splits, count: int, jobs: int = 1) -> dict[str, Any]:
    """Return how often equal models passed, failed and stayed open, and how often one worse by the margin passed."""
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            null = list(pool.map(partial(splits.run, shifted=False), range(count), chunksize=5))
            worse = list(pool.map(partial(splits.run, shifted=True), range(10_000, 10_000 + count), chunksize=5))
    else:
        null = [splits.run(seed, shifted=False) for seed in range(count)]
        worse = [splits.run(10_000 + seed, shifted=True) for seed in range(count)]
    equal, shifted = (Counter(verdict for verdict, _ in each) for each in (null, worse))
    if equal["INVALID"] or shifted["INVALID"]:
        raise SystemExit(f"`{splits.kpi.id}`: some splits are INVALID")
    error = math.sqrt(0.05 * 0.95 / count)
    return {
        "samples": len(splits.columns[0].sample_ids), "documents": len(splits.clusters), "splits": count,
        "equal": {verdict: equal[verdict] for verdict in ("PASS", "FAIL", "INCONCLUSIVE")},
        "false_fail_rate": equal["FAIL"] / count,
        "worse_by_margin": {verdict: shifted[verdict] for verdict in ("PASS", "FAIL", "INCONCLUSIVE")},
        "false_promotion_rate": shifted["PASS"] / count,
        "allowed_rate": round(0.05 + 2 * error, 4),
        "mean_looks_equal": round(float(np.mean([look for _, look in null])), 2),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run everything; print tables and one JSON line; write the result file."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workspace", type=Path, required=True, help="Where models are made, or lie already.")
    options.add_argument("--splits", type=int, default=100)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--bits", type=int, default=160)
    options.add_argument("--lines", type=int, default=160)
    options.add_argument("--kinds", type=int, default=240)
    chosen = options.parse_args(arguments)
    from benchmarks.real_models import make

    began = time.monotonic()
    ws, models = make(chosen.workspace.resolve())
    code, answers = write_suites(ws, bits=chosen.bits, lines=chosen.lines, kinds=chosen.kinds)
    planted = {}
    for name, suite, candidate, baseline in (
        ("bad_data", code, models.bad_data, models.good),
        ("bad_template", answers, models.bad_template, models.answers),
        ("perturbed_weights", code, models.perturbed, models.good),
        ("twin", code, models.twin, models.good),
    ):
        found = judge(ws, suite, candidate.id, baseline.id)
        planted[name] = _report(name, found)
    split = {}
    for suite, one, two in ((code, models.good, models.twin), (answers, models.answers, models.answers_twin)):
        first, controls = full(ws, suite, one.id)
        second, _ = full(ws, suite, two.id)
        spec = specs.load(suite, SuiteSpec)
        for kpi in spec.kpis:
            split[kpi.id] = splits_of(Splits(spec, kpi.id, first, second, controls), chosen.splits, chosen.jobs)
            print(f"{kpi.id:<12} {json.dumps(split[kpi.id])}", flush=True)
    figures = {
        "benchmark": "gate_real",
        "splits_per_kpi": chosen.splits,
        "worst_false_fail_rate": max(each["false_fail_rate"] for each in split.values()),
        "worst_false_promotion_rate": max(each["false_promotion_rate"] for each in split.values()),
        "allowed_rate": max(each["allowed_rate"] for each in split.values()),
        "planted_caught": sum(planted[name]["verdict"] == "FAIL" for name in planted if name != "twin"),
        "planted_passed": sum(planted[name]["verdict"] == "PASS" for name in planted if name != "twin"),
        "planted": 3,
        "wall_s": round(time.monotonic() - began, 1),
    }
    write_result(
        "gate_real", {**figures, "kpis": split, "regressions": planted}, packages=("torch", "transformers", "lm-eval")
    )
    print(json.dumps(figures))
    ws.close()
    return figures


def _report(name: str, found: Judged) -> dict[str, Any]:
    report = {
        "verdict": found.decision.verdict, "looks": found.looks, "failed_at_look": found.failed_at,
        "seconds": round(found.seconds, 1),
        "kpis": {item.kpi: {"verdict": item.verdict, "n": item.n, "candidate": item.candidate,
                            "baseline": item.baseline, "estimate": item.estimate} for item in found.decision.kpis},
    }  # fmt: skip
    print(
        f"{name:<18} {report['verdict']:<13} at look {found.looks} of {LOOKS}  {json.dumps(report['kpis'])}", flush=True
    )
    return report


if __name__ == "__main__":
    main()
