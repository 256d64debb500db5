"""Child process: reads one inspect log and writes its samples as JSON lines to standard output.

    python -P -m evals.children.read_inspect_log LOG METRIC

What is wrong with the log is the last line of standard error; the exit status is then 1.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from inspect_ai.log import EvalLog, EvalSample, read_eval_log

from evals.children.inspect_rows import rows_of
from registry.errors import HallmarkError


def lines(log: EvalLog, metric: str) -> Iterator[dict[str, Any]]:
    """Yield one object a sample and epoch: the columns of a row to import, and the sample's metadata.

    Raises ValueError unless the run was finished; SpecError where no sample has the score `metric`.
    """
    if log.status != "success":
        raise ValueError(f"the run ended with the status `{log.status}`: only finished runs are imported")
    samples = log.samples or []
    plan = {str(each.id): {"cluster": "", "slices": ""} for each in samples}
    request = {"kpi": {"id": "", "metric": metric}, "samples": plan, "scorer": "", "sealed": False}
    for sample, row in zip(samples, rows_of(log, request, {}), strict=True):
        usage = list(sample.model_usage.values())
        yield {
            "sample": row.sample_id,
            "epoch": row.epoch,
            "value": None if math.isnan(row.value) else row.value,
            "error": row.error,
            "output": row.output,
            "input": _asked(sample),
            "target": sample.target if isinstance(sample.target, str) else ", ".join(sample.target),
            "latency_ms": 1000.0 * (sample.total_time or 0.0),
            "prompt_tokens": sum(each.input_tokens for each in usage),
            "completion_tokens": sum(each.output_tokens for each in usage),
            "scorer": _scorer(log, metric),
            "metadata": _plain(sample.metadata),
        }


def _asked(sample: EvalSample) -> str:
    return sample.input if isinstance(sample.input, str) else "\n".join(message.text for message in sample.input)


def _scorer(log: EvalLog, metric: str) -> str:
    names = [each.name for each in log.eval.scorers or []]
    return metric or ",".join(names)


def _plain(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (metadata or {}).items() if isinstance(value, str | int | float)}


def main() -> int:
    """Read the log that the command line names."""
    try:
        log = read_eval_log(sys.argv[1])
        for each in lines(log, sys.argv[2]):
            sys.stdout.write(json.dumps(each) + "\n")
    except HallmarkError as error:
        sys.stderr.write(f"{error.message} ({error.hint})\n")
        return 1
    except Exception as error:  # noqa: BLE001 (whatever the library raises, the parent says it in one line)
        sys.stderr.write(f"not a readable log: {str(error).splitlines()[0] if str(error) else type(error).__name__}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
