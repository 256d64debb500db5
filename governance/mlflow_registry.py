"""Certified model versions in an MLflow model registry: a copy for those who look there; Hallmark stays the truth.

MLflow is asked what it holds before anything is written, so an export that finds all of it there writes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from governance import releases, roles
from governance.standing import standing
from registry.errors import EngineFailure, MissingExtra, Refused, SpecError
from registry.lock import FileLock
from registry.records import Asset, ModelVersion
from registry.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "hallmark."
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_AGENT_HINT": "1"}
"""Set before MLflow is imported, which is when it starts to report its use."""
FILES = ("", "file")
"""Schemes of folders; MLflow keeps that store for whoever asks for it by `MLFLOW_ALLOW_FILE_STORE`."""
RESERVED = re.compile(r"latest|v[0-9]+", re.IGNORECASE)
"""Aliases that mean a number to MLflow; it refuses them."""
CREDENTIALS = re.compile(r"//[^/@\s]*@")
"""User and password in a URI."""


@dataclass(frozen=True, slots=True)
class Registered:
    """One model version as MLflow holds it: Hallmark's id, the registered model, MLflow's number, source and tags."""

    version: str
    name: str
    number: str
    source: str
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class Exported:
    """An export: where to (no credentials), what is there now, a line for each thing written, and what was left out."""

    uri: str
    models: tuple[Registered, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    ws: Workspace,
    ref: str,
    uri: str,
    *,
    registry_uri: str = "",
    files: Path | None = None,
    actor: str | None = None,
) -> Exported:
    """Register model versions with their tags and aliases in an MLflow model registry; return what is there then.

    Args:
        ws: the workspace.
        ref: a model version; empty means every version that was certified.
        uri: MLflow's tracking URI: a folder, `file:...`, `http://...` or `https://...`.
        registry_uri: MLflow's registry URI, where that differs.
        files: a folder for verified copies of the model folders, which MLflow then has as sources. Without it nothing
            is copied and the source is the id of the artifact's manifest.
        actor: who exports.

    Raises:
        MissingExtra: MLflow is not installed.
        SpecError: MLflow has no such store here, or takes no such model name.
        EngineFailure: MLflow did not do what it was asked.
        UnknownName: no such version; Locked: another process exports here.
        Refused: the actor may not export, or a copy of a model folder would go where something is.
    """
    principal = roles.require(ws, "export", ref or "*", actor).name
    versions = _versions(ws, ref)
    certificates = {asset.body["version"]: asset for asset in ws.assets("certificate")}  # the newest of each stays
    held, reasons = _aliases(ws)
    models: list[Registered] = []
    changes: list[str] = []
    known: dict[str, dict[str, Any]] = {}
    lock = FileLock(ws.work("mlflow") / "lock").acquire(ws.settings.number("lock_wait_s"))
    try:
        with _client(uri, registry_uri or uri) as client:
            for name in sorted({version.name for version in versions}):
                known[name] = _listed(client, name, ws.settings.workspace_id)
            for version in versions:
                tags = _tags(ws, version, certificates.get(version.id))
                models.append(_register(ws, client, version, known[version.name].get(version.id), tags, files, changes))
            for name in known:
                _align(client, name, ws.settings.workspace_id, held, changes)
    finally:  # what was written before a failure is in the journal too
        os.close(lock)
        if changes:
            body = {"versions": {one.version: f"{one.name}/{one.number}" for one in models}, "changes": changes}
            ws.record("mlflow.exported", shown(registry_uri or uri), body, actor=principal)
    return Exported(shown(registry_uri or uri), tuple(models), tuple(changes), tuple(reasons))


def shown(uri: str) -> str:
    """Return a URI without user, password, query and fragment: what may be printed and recorded."""
    return re.split(r"[?#]", CREDENTIALS.sub("//", uri), maxsplit=1)[0]


def _versions(ws: Workspace, ref: str) -> list[Asset]:
    """Return the versions to export, oldest certificate first. Raises SpecError for a name that MLflow refuses."""
    ids = [asset.body["version"] for asset in ws.assets("certificate")]
    found = [ws.resolve(ref, "version")] if ref else [ws.resolve(ident, "version") for ident in dict.fromkeys(ids)]
    for version in found:
        if not version.name.strip(". ") or any(mark in version.name for mark in "/:'\"`"):
            raise SpecError(
                f"MLflow takes no model of the name `{version.name}`", hint="name another version; use plain names"
            )
    return found


def _tags(ws: Workspace, version: Asset, certificate: Asset | None) -> dict[str, str]:
    """Return what a version's tags in MLflow shall be; one that was never certified has the first three only."""
    tags = {
        "version": version.id, "model": f"{version.name}:{version.number}", "workspace": ws.settings.workspace_id,
    }  # fmt: skip
    if certificate is not None:
        decision = ws.resolve(certificate.body["decision"], "decision")
        tags |= {
            "candidate": certificate.body["candidate"], "certificate": certificate.id, "decision": decision.id,
            "verdict": decision.body["verdict"], "expires": certificate.body["expires"],
            "standing": standing(ws, certificate).state,
        }  # fmt: skip
    return {PREFIX + name: value for name, value in tags.items()}


def _aliases(ws: Workspace) -> tuple[dict[str, str], list[str]]:
    """Return the version of every alias, empty where MLflow gets none, and why it gets none."""
    held, reasons = {}, []
    for one in releases.standings(ws):
        why = one.problem or ("MLflow reserves that name" if RESERVED.fullmatch(one.alias) else "")
        held[one.alias] = "" if why else one.version
        reasons += [f"alias `{one.alias}` left out: {why}"] if why else []
    return held, reasons


def _register(
    ws: Workspace,
    client: MlflowClient,
    version: Asset,
    found: Any,
    tags: dict[str, str],
    files: Path | None,
    changes: list[str],
) -> Registered:
    """Make sure that MLflow has the model, the version and its tags; `found` is its version of it, None where none."""
    label = tags[f"{PREFIX}model"]
    if found is None:
        source = _source(ws, version, files)
        _ensure_model(client, version.name, changes)
        found = client.create_model_version(
            version.name, source, tags=tags, description=f"{label} of a Hallmark workspace", await_creation_for=0
        )
        changes.append(f"{label} is version {found.version} of model {version.name}")
        return Registered(version.id, version.name, str(found.version), source, tags)
    for name, value in tags.items():
        if found.tags.get(name) != value:
            client.set_model_version_tag(version.name, str(found.version), name, value)
            changes.append(f"{label}: {name} is {value}")
    return Registered(version.id, version.name, str(found.version), found.source, {**found.tags, **tags})


def _source(ws: Workspace, version: Asset, files: Path | None) -> str:
    """Return a version's source for MLflow: its manifest id, or the URI of a copy whose bytes were verified."""
    manifest = ws.get(version.id, ModelVersion).manifest
    if files is None:
        return manifest
    folder = files.resolve() / f"{version.name}-{version.number}-{version.id[7:19]}"
    if folder.exists():
        raise Refused(f"`{folder}` is there already", hint="name another folder with `--files`, or remove that one")
    return ws.artifacts.checkout(manifest, folder).as_uri()


def _ensure_model(client: MlflowClient, name: str, changes: list[str]) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
        changes.append(f"model {name} is registered")


def _listed(client: MlflowClient, name: str, workspace: str) -> dict[str, Any]:
    """Return MLflow's versions of a model that came from this workspace, by Hallmark's id; the first of each."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += [one for one in page if one.tags.get(f"{PREFIX}workspace") == workspace]
        token = page.token
        if not token:
            break
    numbered = sorted(found, key=lambda one: int(one.version), reverse=True)
    return {one.tags[f"{PREFIX}version"]: one for one in numbered if f"{PREFIX}version" in one.tags}


def _align(client: MlflowClient, name: str, workspace: str, held: Mapping[str, str], changes: list[str]) -> None:
    """Point the aliases of one model where Hallmark's point; aliases and versions of others are left alone."""
    numbers = {ident: str(one.version) for ident, one in _listed(client, name, workspace).items()}
    there = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    for alias, version in held.items():
        number = numbers.get(version)
        if number and there.get(alias) != number:
            client.set_registered_model_alias(name, alias, number)
            changes.append(f"alias {alias} of model {name} is version {number}")
        elif not number and there.get(alias) in numbers.values():
            client.delete_registered_model_alias(name, alias)
            changes.append(f"alias {alias} of model {name} is taken away")


@contextmanager
def _client(uri: str, registry_uri: str) -> Iterator[MlflowClient]:
    """Yield a client; what MLflow raises meanwhile becomes an error that says where and what helps."""
    os.environ.update(QUIET)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
    except ImportError:
        raise MissingExtra("mlflow-skinny", "mlflow") from None
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE")
    if any(urlsplit(one).scheme in FILES for one in (uri, registry_uri)):
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    try:
        yield MlflowClient(uri, registry_uri)
    except (ImportError, UnsupportedModelRegistryStoreURIException):
        raise SpecError(
            f"MLflow has no store for `{shown(registry_uri)}` here",
            field="uri",
            hint="name a folder or a server (http, https); databases need the whole package: pip install mlflow",
        ) from None
    except MlflowException as error:
        raise EngineFailure(
            f"MLflow at `{shown(registry_uri)}` failed: {_first_line(error)}",
            hint="check the URI and the server; then run the same command again: what is there is kept",
        ) from None
    finally:
        if allowed is None:
            os.environ.pop("MLFLOW_ALLOW_FILE_STORE", None)


def _first_line(error: Exception) -> str:
    """Return the start of an error's text, without the user and password that a URI in it may carry."""
    text = (str(error).strip().splitlines() or ["no reason given"])[0]
    return CREDENTIALS.sub("//", text)[:300]
