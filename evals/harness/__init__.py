"""Harnesses: what turns a KPI and a model into one row a sample. A new one is one file and one line here."""

from registry.plugins import Plugins

HARNESSES = Plugins(
    "harness",
    "hallmark.harness",
    {
        "lm-eval": "evals.harness.lm_eval:LmEval",
        "inspect": "evals.harness.inspect:Inspect",
        "judge": "evals.harness.judged:Judged",
        "import": "evals.harness.imported:Imported",
    },
)
"""Harness name to its implementation (`evals.harness.protocol.Harness`)."""
