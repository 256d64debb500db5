"""OpenLineage 2-0-2 run events as JSON lines: training, evaluation, gate, promotion; what each read and made."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from registry.records import Asset
from registry.workspace import Workspace
from reports.exports.selection import selected, started

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
JOBS = {"run": "train", "eval_run": "evaluate", "decision": "gate", "release": "promote"}
"""Kind of asset that is an execution to the job it executes."""
FACETS = "https://openlineage.io/spec/facets"
OWNERSHIP = f"{FACETS}/1-0-1/OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet"
VERSION = f"{FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
JOB_TYPE = f"{FACETS}/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"


def _producer() -> str:
    """Return the package URL of what writes the events, without a version where it runs from its source."""
    try:
        return f"pkg:pypi/hallmark-platform@{version('hallmark-platform')}"
    except PackageNotFoundError:
        return "pkg:pypi/hallmark-platform"


PRODUCER = _producer()


def render(ws: Workspace, ident: str = "") -> str:
    """Return the events of every execution, oldest execution first, one JSON object a line.

    An execution has a COMPLETE event at the time its result was registered, and a START event before it where the
    journal recorded when it began (training runs do).
    """
    assets = selected(ws, ident)
    by_id = {asset.id: asset for asset in assets}
    made = defaultdict(list)
    for asset in assets:
        for parent in {parent for _, parent in asset.parents}:
            made[parent].append(asset)
    starts = started(ws, assets)
    namespace = f"hallmark/{ws.settings.workspace_id}"
    events: list[dict[str, Any]] = []
    for asset in assets:
        if asset.kind in JOBS:
            inputs = [_dataset(parent, by_id, namespace) for _, parent in asset.parents]
            outputs = [_dataset(other.id, by_id, namespace) for other in made[asset.id] if other.kind not in JOBS]
            outputs += [_dataset(asset.id, by_id, namespace)] if asset.kind != "run" else []
            events += _events(asset, namespace, inputs, outputs, starts.get(asset.id))
    return "".join(orjson.dumps(event, option=orjson.OPT_SORT_KEYS).decode() + "\n" for event in events)


def _events(
    asset: Asset, namespace: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], start: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the events of one execution, all of one run id."""
    job = {
        "namespace": namespace,
        "name": f"{JOBS[asset.kind]}/{asset.name or asset.id[7:19]}",
        "facets": {"jobType": {"_producer": PRODUCER, "_schemaURL": JOB_TYPE, "processingType": "BATCH",
                               "integration": "HALLMARK", "jobType": JOBS[asset.kind].upper()}},
    }  # fmt: skip
    for kind, time in (("START", start), ("COMPLETE", asset.created)):
        if time:
            yield {
                "eventType": kind,
                "eventTime": time,
                "producer": PRODUCER,
                "schemaURL": f"{SCHEMA}#/$defs/RunEvent",
                "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, asset.id)), "facets": {}},
                "job": job,
                "inputs": inputs,
                "outputs": outputs if kind == "COMPLETE" else [],
            }


def _dataset(ident: str, by_id: dict[str, Asset], namespace: str) -> dict[str, Any]:
    """Return an asset as a dataset; what is not part of the export, or was never registered, has its id only."""
    asset = by_id.get(ident)
    if asset is None:
        return {"namespace": namespace, "name": ident, "facets": {}}
    facets = {"ownership": {"_producer": PRODUCER, "_schemaURL": OWNERSHIP, "owners": [{"name": asset.owner}]},
              "version": {"_producer": PRODUCER, "_schemaURL": VERSION, "datasetVersion": ident}}  # fmt: skip
    return {"namespace": namespace, "name": f"{asset.kind}/{asset.name}:{asset.number}/{ident}", "facets": facets}
