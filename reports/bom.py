"""The ML-BOM: a CycloneDX 1.6 bill of materials of a model version, its files, data, engine and libraries.

cyclonedx-python-lib has no model card, so the document is plain JSON; its strict validator reads it before anyone else.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.artifacts import replace_file
from registry.errors import HallmarkError, NotFound, Tampered
from registry.records import Asset, canonical
from registry.workspace import Workspace

SPEC_VERSION = "1.6"
NAMESPACE = uuid.UUID("6f1e2c1a-54d0-5a3a-9d9b-0a6f0f0a7c11")
"""Under which serial numbers are derived: the same certificate or candidate has the same one everywhere."""


def build(ws: Workspace, version_ref: str, certificate: str = "") -> dict[str, Any]:
    """Return the bill of materials of a version as plain data; the same state of the registry gives the same document.

    Args:
        ws: the workspace.
        version_ref: the version, by any reference that the workspace resolves.
        certificate: which certificate it goes with; default the newest of the version, or none.

    Raises:
        NotFound, UnknownName: no such version or certificate.
    """
    version = ws.resolve(version_ref, "version")
    certified = ws.resolve(certificate, "certificate") if certificate else _newest(ws, "certificate", version.id)
    candidate = (
        ws.resolve(certified.body["candidate"], "candidate") if certified else (_newest(ws, "candidate", version.id))
    )
    decision = _decision(ws, certified, candidate)
    subject = certified or candidate or version
    run = _found(ws, version.body.get("run"), "run")
    datasets = [found for ident in version.body["datasets"] if (found := _found(ws, ident, "dataset"))]
    base = _found(ws, version.body.get("base"), "version")
    model = _model(ws, version, run, datasets, decision)
    parts = [*(_dataset(ws, item) for item in datasets), *([_base(base)] if base else []),
             *_libraries(run), *([_engine(candidate)] if candidate else [])]  # fmt: skip
    components = list({part["bom-ref"]: part for part in parts}.values())
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, subject.id)}",
        "version": 1,
        "metadata": {
            "timestamp": subject.created[:19] + "Z",
            "component": model,
            "properties": _properties({
                "hallmark:workspace": ws.settings.workspace_id, f"hallmark:{subject.kind}": subject.id,
            }),
        },
        "components": components,
        "dependencies": [
            {"ref": version.id, "dependsOn": [part["bom-ref"] for part in components]},
            *({"ref": part["bom-ref"], "dependsOn": []} for part in components),
        ],
    }  # fmt: skip


def render(document: dict[str, Any]) -> str:
    """Return a bill of materials as canonical JSON, once CycloneDX's strict validator took it. Raises HallmarkError."""
    text = canonical(document).decode()
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise HallmarkError(
            f"the bill of materials is no CycloneDX {SPEC_VERSION}: {str(error)[:300]}",
            hint="a record holds what the format cannot say; please report it",
        )
    return text


def write(ws: Workspace, version_ref: str, out: Path) -> Path:
    """Write the validated bill of materials of a version; return its path. Raises as `build` and `render` do."""
    replace_file(out, render(build(ws, version_ref)).encode())
    return out


def _newest(ws: Workspace, kind: str, version: str) -> Asset | None:
    rows = ws.store.query(
        "SELECT id FROM asset WHERE kind = ? AND json_extract_string(body, '$.version') = ? ORDER BY seq DESC LIMIT 1",
        [kind, version],
    )
    return ws.resolve(rows[0]["id"], kind) if rows else None


def _decision(ws: Workspace, certificate: Asset | None, candidate: Asset | None) -> Asset | None:
    """Return the decision that the certificate rests on, else the newest on the candidate."""
    if certificate:
        return ws.resolve(certificate.body["decision"], "decision")
    if candidate is None:
        return None
    rows = ws.store.query(
        "SELECT id FROM asset WHERE kind = 'decision' AND json_extract_string(body, '$.candidate') = ?"
        " ORDER BY seq DESC LIMIT 1",
        [candidate.id],
    )
    return ws.resolve(rows[0]["id"], "decision") if rows else None


def _found(ws: Workspace, ident: str | None, kind: str) -> Asset | None:
    """Return an asset that may not be registered here, or was tombstoned."""
    try:
        return ws.resolve(ident, kind) if ident else None
    except NotFound:
        return None


def _model(
    ws: Workspace, version: Asset, run: Asset | None, datasets: list[Asset], decision: Asset | None
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "architectureFamily": "transformer",
        "modelArchitecture": version.body["architecture"],
        "task": "text-generation",
        "datasets": [{"ref": item.id} for item in datasets],
        "inputs": [{"format": "string"}],
        "outputs": [{"format": "string"}],
    }
    method = run.body["method"] if run else ""
    if method:
        learning = "supervised" if method == "sft" else "self-supervised" if method == "pretrain" else ""
        parameters |= {"approach": {"type": learning}} if learning else {}
    facts = {"hallmark:method": method, "hallmark:parameters": str(version.body["parameters"]),
             "hallmark:manifest": version.body["manifest"], "hallmark:run": version.body.get("run") or ""}  # fmt: skip
    card: dict[str, Any] = {"modelParameters": parameters, "properties": _properties(facts)}
    if decision:
        card["quantitativeAnalysis"] = {"performanceMetrics": list(_metrics(decision))}
    return {
        "type": "machine-learning-model",
        "bom-ref": version.id,
        "name": version.body["name"] or version.name,
        "version": str(version.number),
        "hashes": [{"alg": "SHA-256", "content": version.body["manifest"].removeprefix("sha256:")}],
        "components": _files(ws, version),
        "modelCard": card,
    }


def _metrics(decision: Asset) -> Iterable[dict[str, Any]]:
    """Yield the gate's figures; a KPI without an estimate has none."""
    for row in decision.body["report"].get("kpis", []):
        if row.get("estimate") is None:
            continue
        name = row.get("kpi") or row.get("id") or ""
        metric: dict[str, Any] = {"type": f"{name} ({row.get('rule', '')}): {row.get('verdict', '')}",
                                  "value": repr(row["estimate"])}  # fmt: skip
        if row.get("against"):
            metric["slice"] = f"against the {row['against']}"
        bounds = {"lowerBound": row.get("lower"), "upperBound": row.get("upper")}
        told = {side: repr(value) for side, value in bounds.items() if value is not None}
        yield metric | ({"confidenceInterval": told} if told else {})


def _files(ws: Workspace, version: Asset) -> list[dict[str, Any]]:
    try:
        entries = ws.artifacts.manifest(version.body["manifest"]).entries
    except (NotFound, Tampered) as error:
        raise type(error)(f"files of `{version.name}`: {error.message}", hint=error.hint) from None
    return [
        {
            "type": "file",
            "bom-ref": f"{version.id}/{entry.path}",
            "name": entry.path,
            "mime-type": entry.media_type,
            "hashes": [
                {"alg": "SHA-256", "content": entry.sha256.removeprefix("sha256:")},
                {"alg": "BLAKE3", "content": entry.blake3.removeprefix("blake3:")},
            ],
        }
        for entry in entries
    ]


def _dataset(ws: Workspace, dataset: Asset) -> dict[str, Any]:
    """Return a dataset with the licences of its sources, each said once, and the figures a reader asks for first."""
    sources = dataset.body["sources"]
    licences = sorted({str(source.get("licence") or "") for source in sources} - {""})
    facts = {"hallmark:rows_digest": dataset.body["rows_digest"],
             **{f"hallmark:rows:{name}": str(count) for name, count in dataset.body["splits"].items()}}  # fmt: skip
    for source in sources:
        told = [str(source.get(key)) for key in ("version", "licence", "digest") if source.get(key)]
        facts[f"hallmark:source:{source.get('name', '')}"] = ", ".join(told)
    component = {
        "type": "data",
        "bom-ref": dataset.id,
        "name": dataset.body["name"] or dataset.name,
        "version": str(dataset.number),
        "hashes": [{"alg": "SHA-256", "content": dataset.body["manifest"].removeprefix("sha256:")}],
        "data": [{"type": "dataset", "name": dataset.body["name"], "contents": {"properties": _properties(facts)}}],
    }
    if licences:
        component["licenses"] = [{"license": _licence(name)} for name in licences]
    return component


def _licence(name: str) -> dict[str, str]:
    from cyclonedx.spdx import is_supported_id

    return {"id": name} if is_supported_id(name) else {"name": name}


def _base(base: Asset) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": base.id,
        "name": base.body["name"] or base.name,
        "version": str(base.number),
        "hashes": [{"alg": "SHA-256", "content": base.body["manifest"].removeprefix("sha256:")}],
    }


def _libraries(run: Asset | None) -> Iterable[dict[str, Any]]:
    """Yield the libraries that the run's environment records."""
    packages = (run.body.get("environment") or {}).get("packages") if run else None
    for name, number in sorted((packages or {}).items()):
        yield _library(str(name), str(number))


def _engine(candidate: Asset) -> dict[str, Any]:
    return _library(candidate.body["engine"], candidate.body["engine_version"])


def _library(name: str, number: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{number}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl}


def _properties(facts: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in facts.items() if value]
