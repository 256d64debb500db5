"""A document of an lm-eval task as a planned sample: its id by content, and what it asks."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from lm_eval.api.task import Task

from evals.samples import sample_id
from registry.errors import SpecError

TASK_FIELD = "task"
"""A field that every document of a group has for clusters and slices: the name of its task."""


def document_id(doc: dict[str, Any], task: str) -> str:
    """Return the id of a document's content; in a group, where tasks may share documents, with its task's name."""
    content = plain(doc)
    return sample_id({"task": task, "doc": content} if task else content)


def plain(value: Any) -> Any:
    """Return a document as JSON data: bytes by their digest, no number as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return hashlib.blake2b(value, digest_size=16).hexdigest()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def describe(task: Task, name: str, doc: dict[str, Any], kpi: dict[str, Any]) -> dict[str, Any]:
    """Return a sample as plain data: {id, cluster, input, target, choices, slices}; {cluster, slices} of the KPI."""
    key = document_id(doc, name if kpi["several"] else "")
    asked = _said(lambda: task.doc_to_text(doc))
    target = _said(lambda: task.doc_to_target(doc))
    choices = _said(lambda: task.doc_to_choice(doc) if task.config.doc_to_choice is not None else [])
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        asked, target = target, ""
    return {
        "id": key,
        "cluster": str(_field(doc, name, kpi["cluster"], "cluster")) if kpi["cluster"] else key,
        "input": asked if isinstance(asked, str) and asked else json.dumps(plain(doc), ensure_ascii=False),
        "target": target if isinstance(target, str) else json.dumps(plain(target), ensure_ascii=False),
        "choices": [str(each) for each in choices] if isinstance(choices, list) else [],
        "slices": [[field, str(_field(doc, name, field, "slices"))] for field in kpi["slices"]],
    }


def _field(doc: dict[str, Any], task: str, name: str, wanted: str) -> Any:
    value = doc.get(name, task if name == TASK_FIELD else None)
    if value is None:
        known = ", ".join(f"`{key}`" for key in sorted(doc))
        raise SpecError(f"a document of `{task}` has no field `{name}`", field=wanted, hint=f"fields: {known}")
    return value


def _said(make: Any) -> Any:
    try:
        return make()
    except Exception:  # noqa: BLE001 - the task's own code; what a document shows is no reason to refuse the task
        return ""
