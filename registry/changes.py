"""What changed between two assets of one kind, and why: inputs, configuration, results, recorded reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import yaml

from registry.errors import NotFound, SpecError
from registry.reasons import Reason, literal, recorded
from registry.records import plain
from registry.workspace import Workspace

ABSENT = "-"
HOPS = 4
"""How far the parts of an asset are followed: release, certificate, candidate, version, run."""
LINKED = ("certificate", "candidate", "version", "run")
MANIFESTS = {"version": {"weights": "manifest"}, "candidate": {"weights": "weights", "bundle": "bundle",
             "adapter": "adapter"}}  # fmt: skip
"""Kind to prefix and field of each manifest it names; every other kind has one, `manifest`."""
SHOWN = {
    "version": ("architecture", "parameters"),
    "candidate": ("engine", "engine_version", "quantisation", "system_prompt", "template", "tokenizer", "generation"),
    "run": ("method", "steps", "tokens", "environment"),
    "dataset": ("splits", "drops", "sources"),
    "suite": ("version", "instruments"),
    "bundle": ("version",),
    "adapter": ("method", "rank"),
    "tokenizer": ("vocab_size", "digest"),
    "recipe": ("method", "body"),
    "certificate": ("expires",),
    "decision": ("mode", "alpha", "suite", "baseline"),
    "eval_run": ("suite", "instruments", "harness", "target"),
    "drift": ("verdict", "reference", "current"),
}
"""Kind to the fields that are its configuration."""
RELEASED = (
    " UNION ALL SELECT release, 'release', alias, 0, to_json({{certificate: certificate, alias: alias}})"
    " FROM alias_history WHERE release IN ({named})"
)
TEXTS = {"suite": "suite.yaml", "bundle": "bundle.yaml"}
"""Kind to the file in its manifest that people write."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs; a side that has none says `-`. `by` is the difference of two numbers or sizes, else 0."""

    what: str
    before: str
    after: str
    by: float = 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """From `first` to `second` (ids): inputs (files, data), configuration (dotted keys), results, reasons by time."""

    kind: str
    first: str
    second: str
    inputs: tuple[Change, ...]
    configuration: tuple[Change, ...]
    results: tuple[Change, ...]
    reasons: tuple[Reason, ...]


def difference(ws: Workspace, first: str, second: str) -> Difference:
    """Return what changed from one asset to another of the same kind, and the reasons recorded about either.

    Args:
        ws: the workspace.
        first: id of an asset, or of a release.
        second: id of another.

    Raises:
        NotFound: an id is not there; SpecError: the two are of different kinds.
    """
    with ws.store.reading():
        return _difference(ws, first, second)


def _difference(ws: Workspace, first: str, second: str) -> Difference:
    known = _chain(ws, (first, second))
    for ident in (first, second):
        if ident not in known:
            raise NotFound(f"nothing is registered as `{ident[:19]}`", hint="see `hallmark lineage`")
    kind, other = known[first]["kind"], known[second]["kind"]
    if kind != other:
        raise SpecError(f"cannot compare a {kind} with a {other}", hint="name two of one kind: `KIND/NAME:NUMBER`")
    one, two = _parts(known, first), _parts(known, second)
    said = recorded(
        ws, {ident: [(part["kind"], part["id"]) for part in parts] for ident, parts in ((first, one), (second, two))},
        _sources(known),
    )  # fmt: skip
    return Difference(
        kind, first, second,
        _compare(_inputs(ws, one, known), _inputs(ws, two, known)),
        _compare(_configuration(ws, one), _configuration(ws, two)),
        _compare(_measured(one) | said.results[first], _measured(two) | said.results[second]),
        said.reasons,
    )  # fmt: skip


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as dotted keys; a list of dicts with an `id` or `name` each of its own is keyed by that."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        keyed = {_key(item): item for item in value}
        if len(keyed) == len(value) and "" not in keyed:
            value = keyed
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _key(item: dict[str, Any]) -> str:
    return str(item.get("id") or item.get("name") or item.get("kpi") or "")


def _chain(ws: Workspace, idents: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Return by id the assets and what they name: their certificate, candidate, version, run, datasets, base."""
    known: dict[str, dict[str, Any]] = {}
    wanted = set(idents)
    for hop in range(HOPS + 1):
        named = ", ".join(map(literal, sorted(wanted)))
        rows = ws.store.query(
            f"SELECT id, kind, name, number, body FROM asset WHERE id IN ({named})"  # noqa: S608 (quoted ids)
            + (RELEASED.format(named=named) if hop == 0 else "")
        )
        for row in rows:
            known.setdefault(row["id"], {**row, "body": orjson.loads(row["body"])})
        wanted = {name for row in rows for name in _named(known[row["id"]])} - known.keys()
        if not wanted:
            break
    return known


def _named(row: dict[str, Any]) -> list[str]:
    """Return the ids an asset names; what a dataset or tokenizer was made from is not followed."""
    body = row["body"]
    if row["kind"] in ("dataset", "tokenizer"):
        return []
    datasets = body.get("datasets")
    names = [body.get(name) for name in (*LINKED, "base")] + (datasets if isinstance(datasets, list) else [])
    return [name for name in names if isinstance(name, str)]


def _parts(known: dict[str, dict[str, Any]], ident: str) -> list[dict[str, Any]]:
    """Return an asset and, one after another, what it names on the way to the run that made it."""
    found: list[dict[str, Any]] = []
    while ident in known and all(part["id"] != ident for part in found):
        found.append(known[ident])
        body = known[ident]["body"]
        ident = next((body[name] for name in LINKED if isinstance(body.get(name), str) and body[name] in known), "")
    return found


def _sources(known: dict[str, dict[str, Any]]) -> set[str]:
    return {str(source.get("name")) for row in known.values() if row["kind"] == "dataset"
            for source in row["body"]["sources"]}  # fmt: skip


def _inputs(ws: Workspace, parts: list[dict[str, Any]], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    holder = next((part for part in parts if part["kind"] in MANIFESTS), parts[0])  # a candidate names its version's
    for prefix, name in MANIFESTS.get(holder["kind"], {"": "manifest"}).items():
        found |= _files(ws, holder["body"], name, prefix)
    for part in parts:
        body = part["body"]
        for dataset in body.get("datasets") or []:
            row = known.get(dataset)
            found[f"data.{row['name'] if row else dataset[7:19]}"] = _label(dataset, row)
        if isinstance(body.get("base"), str):
            found["base"] = _label(body["base"], known.get(body["base"]))
        for relation in ("version", "candidate", "run", "suite"):
            if isinstance(body.get(relation), str) and part is parts[0]:
                found[relation] = _label(body[relation], known.get(body[relation]))
    return found


def _files(ws: Workspace, body: dict[str, Any], name: str, prefix: str) -> dict[str, Any]:
    place = f"{prefix}/" if prefix else ""
    try:
        entries = ws.artifacts.manifest(body[name]).entries if body.get(name) not in (None, "none") else ()
    except NotFound:  # collected: what the record itself says is left
        left = body["weights"] if isinstance(body.get("weights"), dict) else {"manifest": body[name]}
        return {f"{place}{path}": digest[7:19] for path, digest in left.items()}
    return {f"{place}{entry.path}": _File(entry.size, entry.sha256) for entry in entries}


@dataclass(frozen=True, slots=True)
class _File:
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size:,} B {self.sha256[7:15]}"


def _configuration(ws: Workspace, parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        kind, body = part["kind"], part["body"]
        shown = SHOWN.get(kind, () if kind == "release" else tuple(body))
        found |= flatten({name: body[name] for name in shown if name in body})
        if kind == "run":
            found |= flatten(body["recipe_body"], "recipe")
    return found | _text(ws, parts[0])


def _text(ws: Workspace, part: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the YAML file of a suite or bundle."""
    name = TEXTS.get(part["kind"])
    if name is None:
        return {}
    try:
        entry = ws.artifacts.manifest(part["body"]["manifest"]).entry(name)
        text = ws.artifacts.read_bytes(entry.blake3) if entry else b""
        return flatten(yaml.safe_load(text) or {}, name.partition(".")[0])
    except (NotFound, yaml.YAMLError):
        return {}


def _measured(parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        found |= flatten(part["body"].get("metrics") or {}, "metrics")
        if part["kind"] == "eval_run":
            found |= flatten({name: part["body"][name] for name in ("completed", "errors")})
    return found


def _compare(one: dict[str, Any], two: dict[str, Any]) -> tuple[Change, ...]:
    names = sorted(one.keys() | two.keys())
    return tuple(_change(name, one.get(name, ABSENT), two.get(name, ABSENT))
                 for name in names if one.get(name, ABSENT) != two.get(name, ABSENT))  # fmt: skip


def _change(what: str, before: Any, after: Any) -> Change:
    sizes = [value.size if isinstance(value, _File) else value for value in (before, after)]
    numbers = [size for size in sizes if isinstance(size, int | float) and not isinstance(size, bool)]
    by = float(numbers[1] - numbers[0]) if len(numbers) == 2 else 0.0
    return Change(what, _text_of(before), _text_of(after), by)


def _text_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, str | _File) else orjson.dumps(plain(value)).decode()


def _label(ident: str, row: dict[str, Any] | None) -> str:
    return f"{row['name']}:{row['number']} {ident[7:19]}" if row else ident[7:19]
