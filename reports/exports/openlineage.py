"""OpenLineage 2-0-2 run events as JSON lines: training runs, evaluation runs and gate decisions with what they read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import orjson

from registry.records import Asset
from registry.workspace import Workspace
from reports.exports.selection import selected

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
PRODUCER = "https://pypi.org/project/hallmark-platform"
JOBS = {"run": "train", "eval_run": "evaluate", "decision": "gate"}
"""Kind of asset that is an execution to the job it executes."""
OWNERSHIP = "https://openlineage.io/spec/facets/1-0-1/OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet"
JOB_TYPE = "https://openlineage.io/spec/facets/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"


def render(ws: Workspace, ident: str = "") -> str:
    """Return one START and one COMPLETE event per execution, oldest first, one JSON object a line."""
    assets = selected(ws, ident)
    by_id = {asset.id: asset for asset in assets}
    namespace = f"hallmark/{ws.settings.workspace_id}"
    events = [event for asset in assets if asset.kind in JOBS for event in _events(asset, by_id, namespace)]
    return "".join(orjson.dumps(event, option=orjson.OPT_SORT_KEYS).decode() + "\n" for event in events)


def _events(asset: Asset, by_id: dict[str, Asset], namespace: str) -> Iterator[dict[str, Any]]:
    """Yield both events of one execution; the journal knows when it was recorded, so both carry that time."""
    inputs = [_dataset(parent, by_id, namespace) for _, parent in asset.parents]
    made = [other for other in by_id.values() if asset.id in {parent for _, parent in other.parents}]
    outputs = [_dataset(other.id, by_id, namespace) for other in made if other.kind not in JOBS]
    outputs += [_dataset(asset.id, by_id, namespace)] if asset.kind != "run" else []
    job = {
        "namespace": namespace,
        "name": f"{JOBS[asset.kind]}/{asset.name or asset.id[7:19]}",
        "facets": {"jobType": {"_producer": PRODUCER, "_schemaURL": JOB_TYPE, "processingType": "BATCH",
                               "integration": "HALLMARK", "jobType": JOBS[asset.kind].upper()}},
    }  # fmt: skip
    for kind in ("START", "COMPLETE"):
        yield {
            "eventType": kind,
            "eventTime": asset.created,
            "producer": PRODUCER,
            "schemaURL": f"{SCHEMA}#/$defs/RunEvent",
            "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, asset.id)), "facets": {}},
            "job": job,
            "inputs": inputs,
            "outputs": outputs if kind == "COMPLETE" else [],
        }


def _dataset(ident: str, by_id: dict[str, Asset], namespace: str) -> dict[str, Any]:
    asset = by_id.get(ident)
    if asset is None:
        return {"namespace": namespace, "name": ident, "facets": {}}
    owner = {"_producer": PRODUCER, "_schemaURL": OWNERSHIP, "owners": [{"name": asset.owner}]}
    return {"namespace": namespace, "name": f"{asset.kind}/{asset.name}:{asset.number}/{ident}",
            "facets": {"ownership": owner}}  # fmt: skip
