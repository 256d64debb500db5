"""The built-in tasks as lm-eval configurations over planned samples."""

from __future__ import annotations

from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

CHOICES = 4


def builtin_task(name: str, kpi: str, samples: list[dict[str, Any]]) -> ConfigurableTask:
    """Return a built-in task over samples (`Sample.plain()`), without lm-eval's index or any download."""
    rows = datasets.Dataset.from_list([{key: sample[key] for key in ("input", "target", "choices")} | {
        "id": sample["id"]} for sample in samples])  # fmt: skip
    config = {
        "task": kpi,
        "custom_dataset": lambda **_: {"test": rows},
        "test_split": "test",
        "target_delimiter": "",
        **_TASKS[name],
    }
    return ConfigurableTask(config=config)


METRICS = {"bits_per_byte": "bits_per_byte", "next_line": "acc_mutual_info", "exact_match": "exact_match"}
"""The metric of each built-in task."""

_TASKS: dict[str, dict[str, Any]] = {
    "bits_per_byte": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": lambda doc: "",
        "doc_to_target": lambda doc: doc["input"],
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    },
    "next_line": {
        "output_type": "multiple_choice",
        "doc_to_text": lambda doc: doc["input"],
        "doc_to_target": lambda doc: int(doc["target"]),
        "doc_to_choice": lambda doc: list(doc["choices"]),
        "metric_list": [{"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}],
    },
    "exact_match": {
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["input"],
        "doc_to_target": lambda doc: doc["target"],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
        "process_results": lambda doc, results: {"exact_match": float(results[0].strip() == doc["target"].strip())},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}
