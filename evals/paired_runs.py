"""Two sets of evaluation runs compared inside the store, in one statement: the way for millions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.workspace import Workspace

_EPOCHS = """
  SELECT coalesce(a.kpi, b.kpi) AS kpi, coalesce(a.sample_id, b.sample_id) AS id,
         any_value(CASE WHEN a.cluster = '' THEN chr(1) || a.sample_id ELSE a.cluster END) AS cluster,
         avg(a.value) AS first, avg(b.value) AS second, avg(a.value - b.value) AS change, avg(a.weight) AS weight,
         count(*) AS epochs,
         bool_or(a.kpi IS NULL OR b.kpi IS NULL) AS alone,
         bool_or(coalesce(a.error, '') <> '' OR coalesce(b.error, '') <> '') AS failed,
         bool_or(NOT isfinite(a.value) OR NOT isfinite(b.value) OR NOT isfinite(a.weight) OR a.weight <= 0) AS odd,
         bool_or(a.cluster <> b.cluster OR abs(a.weight - b.weight) > 1e-9 * abs(b.weight)) AS differs,
         count(*) > max(coalesce(a.epoch, b.epoch)) - min(coalesce(a.epoch, b.epoch)) + 1 AS twice
  FROM a FULL JOIN b ON a.kpi = b.kpi AND a.sample_id = b.sample_id AND a.epoch = b.epoch
  GROUP BY 1, 2
"""
_ONE_EPOCH = """
  SELECT coalesce(a.kpi, b.kpi) AS kpi,
         CASE WHEN a.cluster = '' THEN chr(1) || a.sample_id ELSE a.cluster END AS cluster,
         a.value AS first, b.value AS second, a.value - b.value AS change, a.weight AS weight, 1 AS epochs,
         a.kpi IS NULL OR b.kpi IS NULL AS alone,
         coalesce(a.error, '') <> '' OR coalesce(b.error, '') <> '' AS failed,
         NOT isfinite(a.value) OR NOT isfinite(b.value) OR NOT isfinite(a.weight) OR a.weight <= 0 AS odd,
         a.cluster <> b.cluster OR abs(a.weight - b.weight) > 1e-9 * abs(b.weight) AS differs, false AS twice
  FROM a FULL JOIN b ON a.kpi = b.kpi AND a.sample_id = b.sample_id AND a.epoch = b.epoch
"""
"""The same where no sample was measured twice: half the work, for the pairs need not be put together by sample."""
_SHAPE = """
SELECT kpi, min(epoch) AS low, max(epoch) AS high, count(*) FILTER (eval_run IN ({first})) AS first,
       count(*) FILTER (eval_run IN ({second})) AS second
FROM sample_result WHERE eval_run IN ({first}) OR eval_run IN ({second}) GROUP BY kpi
"""
_SQL = """
WITH
a AS (SELECT kpi, sample_id, epoch, value, weight, cluster, error FROM sample_result WHERE eval_run IN ({first})),
b AS (SELECT kpi, sample_id, epoch, value, weight, cluster, error FROM sample_result WHERE eval_run IN ({second})),
sample AS ({pairs}),
unit AS (
  SELECT kpi, cluster, sum(first) AS first, sum(second) AS second, sum(change) AS change, sum(weight) AS weight,
         count(*) AS samples, count(*) FILTER (change > 0) AS up, count(*) FILTER (change < 0) AS down,
         count(*) FILTER (alone) AS alone, count(*) FILTER (failed) AS failed,
         count(*) FILTER (odd AND NOT failed) AS odd, count(*) FILTER (differs) AS differs,
         count(*) FILTER (twice) AS twice, min(epochs) AS fewest, max(epochs) AS most
  FROM sample GROUP BY kpi, cluster
),
total AS (
  SELECT kpi, sum(first) / sum(weight) AS first, sum(second) / sum(weight) AS second,
         sum(change) / sum(weight) AS difference, sum(weight) AS weight, count(*) AS clusters,
         sum(samples) AS samples, sum(up) AS up, sum(down) AS down, sum(alone) AS alone, sum(failed) AS failed,
         sum(odd) AS odd, sum(differs) AS differs, sum(twice) AS twice, min(fewest) < max(most) AS uneven
  FROM unit GROUP BY kpi
)
SELECT total.kpi, any_value(samples) AS samples, any_value(clusters) AS clusters, any_value(first) AS first,
       any_value(second) AS second, any_value(difference) AS difference,
       sqrt(any_value(clusters) / (any_value(clusters) - 1) * sum((change - difference * unit.weight) ** 2))
         / any_value(total.weight) AS error,
       any_value(up) AS up, any_value(down) AS down, any_value(alone) AS alone, any_value(failed) AS failed,
       any_value(odd) AS odd, any_value(differs) AS differs, any_value(twice) AS twice, any_value(uneven) AS uneven
FROM total JOIN (SELECT kpi, change, weight FROM unit) unit ON unit.kpi = total.kpi
GROUP BY total.kpi ORDER BY total.kpi
"""
_PROBLEMS = {
    "alone": "{} sample(s) lack their pair",
    "failed": "{} sample(s) have an error",
    "odd": "{} sample(s) without a finite value and a positive weight",
    "differs": "{} sample(s) have another cluster or weight on the other side",
    "twice": "{} sample(s) occur twice in the same epoch",
}


@dataclass(frozen=True, slots=True)
class PairedKpi:
    """The paired difference of one KPI, first less second, whatever the KPI's direction.

    `first` and `second` are the means (sum of numerators over sum of weights), `error` the clustered standard error of
    `difference` (`evals.stats.paired`), with `clusters` - 1 degrees of freedom; None below two clusters. `up` and
    `down` count samples. All figures are None where there are `problems`: nothing is dropped to get a number.
    """

    kpi: str
    samples: int
    clusters: int
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    error: float | None = None
    up: int = 0
    down: int = 0
    problems: tuple[str, ...] = ()

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the ends of Student's interval, each at one-sided `level`; None where there is no error."""
        from scipy import stats

        if self.difference is None or self.error is None:
            return None
        reach = float(stats.t.isf(level, self.clusters - 1)) * self.error
        return self.difference - reach, self.difference + reach


def compare_runs(ws: Workspace, first_runs: Sequence[str], second_runs: Sequence[str]) -> list[PairedKpi]:
    """Return the paired, clustered difference of every KPI that either side has rows of, by KPI id.

    Samples are paired by id and epoch and epochs averaged; the variance is Miller's over clusters (arXiv 2411.00640).

    Args:
        ws: the workspace.
        first_runs: ids of EvalRuns (the looks at one candidate, say), at least one.
        second_runs: ids of EvalRuns to compare with, at least one.
    """
    marks = [", ".join("?" for _ in runs) or "NULL" for runs in (first_runs, second_runs)]
    runs = [*first_runs, *second_runs]
    with ws.store.reading():
        shape = _SHAPE.format(first=marks[0], second=marks[1])
        held = {row["kpi"]: row for row in ws.store.query(shape, [*runs, *runs])}
        once = all(row["low"] == row["high"] for row in held.values())
        sql = _SQL.format(first=marks[0], second=marks[1], pairs=_ONE_EPOCH if once else _EPOCHS)
        found = ws.store.query(sql, runs)
    for row in found:
        if once and not row["alone"]:  # then a sample that occurs twice on a side makes more pairs than it has rows
            row["twice"] = row["samples"] - min(held[row["kpi"]]["first"], held[row["kpi"]]["second"])
    return [_row(row) for row in found]


def _row(row: dict[str, object]) -> PairedKpi:
    found = [text.format(row[name]) for name, text in _PROBLEMS.items() if row[name]]
    if row["uneven"] and not found:
        found = ["samples have unequal numbers of epochs"]
    kept = ("kpi", "samples", "clusters") if found else (
        "kpi", "samples", "clusters", "first", "second", "difference", "error", "up", "down")  # fmt: skip
    values = {name: row[name] for name in kept}
    if row["clusters"] == 1:
        values.pop("error", None)
    return PairedKpi(**values, problems=tuple(found))  # type: ignore[arg-type]
