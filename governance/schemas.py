"""JSON Schemas of every YAML spec."""

from __future__ import annotations

from typing import Any

from registry.plugins import Plugins
from registry.specs import Spec

SPECS = Plugins(
    "spec",
    "hallmark.spec",
    {
        "data": "training.data.spec:DataSpec",
        "recipe": "training.recipe:Recipe",
        "suite": "evals.suite:SuiteSpec",
        "bundle": "policies.bundle:BundleSpec",
        "pipeline": "governance.pipeline:PipelineSpec",
    },
)


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a spec. Raises UnknownName."""
    model: type[Spec] = SPECS.load(name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
