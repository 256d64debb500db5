"""Model folders in and out: a plain Hugging Face folder becomes a version or an adapter, and comes back the same."""

from __future__ import annotations

import re
from pathlib import Path

from governance import model_folder, roles
from registry.errors import NotFound, SpecError
from registry.files import plain_files
from registry.records import Adapter, Asset, Manifest, ModelVersion
from registry.withdrawals import refuse_tombstoned
from registry.workspace import Workspace

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def import_folder(
    ws: Workspace,
    folder: Path,
    *,
    name: str,
    base: str | None = None,
    licence: str = "",
    source: str = "",
    actor: str | None = None,
) -> Asset:
    """Store a Hugging Face folder and register it; return its asset: a version, or an adapter for a PEFT folder.

    Args:
        ws: the workspace.
        folder: a folder with `config.json` and safetensors weights, or with `adapter_config.json`.
        name: what the version is called.
        base: the version it was made from; an adapter must name the one that it changes.
        licence: SPDX id or text; kept in the journal.
        source: where it came from; kept in the journal.
        actor: who imports.

    Raises:
        SpecError: something in the folder forbids its import; names every file and why.
        NotFound: no such folder or base.
        Refused: the actor may not, or these very bytes were withdrawn.
    """
    principal = roles.require(ws, "import", name, actor)
    found = check(folder)
    if not NAME.fullmatch(name):
        raise SpecError(f"`{name}` is no name for a version", hint="letters, digits, `.`, `_` and `-`, at most 64")
    parent = ws.resolve(base, "version") if base else None
    if found.is_adapter and parent is None:
        raise SpecError("an adapter changes one base version", hint="name it with `--base`")
    manifest = ws.artifacts.add_tree(folder)
    record = _adapter(name, manifest, found, parent) if found.is_adapter and parent else _version(
        name, manifest, found, parent
    )  # fmt: skip
    refuse_tombstoned(ws, record.id)
    parents = [("base", parent.id)] if parent else []
    asset = ws.register(record, actor=principal.name, name=name, parents=parents)
    body = {"licence": licence, "source": source, "folder": folder.resolve().name, "manifest": manifest.id}
    ws.record(f"{asset.kind}.imported", asset.id, body, actor=principal.name)
    return asset


def check(folder: Path) -> model_folder.ModelFolder:
    """Return what a folder holds. Raises SpecError naming everything that forbids its import, and NotFound."""
    try:
        plain_files(folder)
    except SpecError as error:
        raise SpecError(error.message, hint="a download cache holds links: copy the folder with `cp -rL`") from None
    found = model_folder.read(folder)
    if found.problems:
        lines = "".join(f"\n  {problem}" for problem in found.problems)
        raise SpecError(f"`{folder}` is not imported:{lines}", hint="mend the folder; nothing was stored")
    return found


def export(ws: Workspace, ref: str, dest: Path, *, actor: str | None = None) -> Asset:
    """Copy the verified files of a version or adapter into the new folder `dest`; return its asset.

    Raises:
        SpecError: `dest` is there already.
        Tampered, NotFound, Refused: the stored bytes differ, are gone or were withdrawn. Nothing is left at `dest`.
    """
    principal = roles.require(ws, "export", ref, actor)
    asset = find(ws, ref)
    refuse_tombstoned(ws, asset.id)
    if dest.exists() or dest.is_symlink():
        raise SpecError(f"`{dest}` is there already", hint="name a new folder with `--to`")
    ws.artifacts.checkout(asset.body["manifest"], dest)
    ws.record(f"{asset.kind}.exported", asset.id, {"manifest": asset.body["manifest"]}, actor=principal.name)
    return asset


def find(ws: Workspace, ref: str) -> Asset:
    """Return the version, or else the adapter, that a reference means. Raises NotFound."""
    try:
        return ws.resolve(ref, "version")
    except NotFound as unknown:
        try:
            return ws.resolve(ref, "adapter")
        except NotFound:
            raise unknown from None


def _weights(manifest: Manifest) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.entries if entry.path.endswith(".safetensors")}


def _version(name: str, manifest: Manifest, found: model_folder.ModelFolder, base: Asset | None) -> ModelVersion:
    return ModelVersion(
        name=name,
        manifest=manifest.id,
        run=None,
        base=base.id if base else None,
        datasets=[],
        architecture=found.architecture,
        parameters=found.parameters,
        weights=_weights(manifest),
    )


def _adapter(name: str, manifest: Manifest, found: model_folder.ModelFolder, base: Asset) -> Adapter:
    rank = found.config.get("r")
    return Adapter(
        name=name,
        base=base.id,
        manifest=manifest.id,
        method=str(found.config["peft_type"]),
        rank=rank if type(rank) is int else 0,
        weights=_weights(manifest),
    )
