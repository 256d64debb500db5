"""A suite that imports, and rows of another harness that fit it."""

from evals.suite import SuiteSpec
from registry import specs

SUITE = """
suite: foreign
version: 1
canary: canary-of-a-test-0123456789
kpis:
  - {id: quality, harness: import, task: theirs@1.2, samples: 3, direction: higher, control: null_model,
     rule: {type: noninferior, margin: 0.1}}
  - {id: leaks, harness: import, task: theirs@1.2, samples: 2, epochs: 2, direction: lower, cluster: case,
     slices: [language], control: planted_violator, rule: {type: max_rate, limit: 0.5}}
  - {id: own, harness: lm-eval, task: exact_match, data: own.jsonl, samples: 1, direction: higher,
     rule: {type: advisory}}
"""
SPEC = specs.parse(SUITE, SuiteSpec)
QUALITY = [{"sample": f"q{n}", "kpi": "quality", "value": n / 2} for n in range(3)]
LEAKS = [
    {"sample": n, "kpi": "leaks", "value": 0, "epoch": epoch, "cluster": f"c{n}", "slices": {"language": "de"}}
    for n in range(2)
    for epoch in range(2)
]


def changed(rows, index, **fields):
    """Return the rows, one of them with other fields; `...` takes a field away."""
    found = [dict(row) for row in rows]
    found[index] |= fields
    return [{key: value for key, value in row.items() if value is not ...} for row in found]
