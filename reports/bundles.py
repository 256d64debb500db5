"""Reads the rules of a policy bundle out of the object store, for people to see what is enforced.

The bundle's own loader belongs to the endpoint; a report only lists: Cedar policies by `@id`, content rules by their
entry in YAML, every file by digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from registry.artifacts import Artifacts
from registry.errors import HallmarkError
from registry.records import ManifestEntry
from reports.facts import Bundle, Evidence, Filed, PolicyRule

LARGEST = 1 << 20
_CEDAR = re.compile(
    r"(?P<notes>(?:@\w+\s*\(\s*\"(?:[^\"\\]|\\.)*\"\s*\)\s*)*)(?P<effect>permit|forbid)\s*\((?P<rest>[^;]*);", re.DOTALL
)
_NOTE = re.compile(r"@(\w+)\s*\(\s*\"((?:[^\"\\]|\\.)*)\"\s*\)")


def read(artifacts: Artifacts, manifest_id: str, candidate: Filed) -> Bundle:
    """Return a bundle's files and rules; a missing or altered file is told in `unreadable`, never skipped silently."""
    files: list[dict[str, Any]] = []
    rules: list[PolicyRule] = []
    problem = ""
    try:
        for entry in artifacts.manifest(manifest_id).entries:
            files.append(told(entry))
            if entry.size <= LARGEST and entry.path.endswith((".cedar", ".yaml", ".yml")):
                text = artifacts.read_bytes(entry.blake3).decode("utf-8", errors="replace")
                rules += _cedar(entry.path, text) if entry.path.endswith(".cedar") else _yaml(entry.path, text)
    except HallmarkError as error:
        problem = error.message
    evidence = (Evidence("digest", manifest_id, "policy bundle"), *candidate.evidence)
    return Bundle(manifest_id, tuple(files), tuple(rules), problem, evidence)


def told(entry: ManifestEntry) -> dict[str, Any]:
    """Return what a report says about a file."""
    return {"path": entry.path, "size": entry.size, "sha256": entry.sha256}


def _cedar(file: str, text: str) -> Iterator[PolicyRule]:
    code = re.sub(r"//[^\n]*", "", text)
    for position, found in enumerate(_CEDAR.finditer(code)):
        notes = dict(_NOTE.findall(found["notes"]))
        scope = re.sub(r"\s+", " ", f"{found['effect']}({found['rest']}").strip()
        name = notes.get("id", f"policy{position}")
        yield PolicyRule(file, name, "access", found["effect"], notes.get("reason") or notes.get("advice") or scope)


def _yaml(file: str, text: str) -> Iterator[PolicyRule]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        yield PolicyRule(file, "", "unreadable", "", "not valid YAML")
        return
    entries = document.get("rules") if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            rest = {k: v for k, v in entry.items() if k not in {"id", "kind", "action", "description"}}
            words = "; ".join(f"{key}: {_plain(value)}" for key, value in rest.items())
            told = str(entry.get("description") or "")
            yield PolicyRule(
                file,
                str(entry.get("id") or ""),
                str(entry.get("kind") or entry.get("type") or "content"),
                str(entry.get("action") or "block"),
                f"{told} ({words})" if told else words,
            )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)
