"""Where things are: flag > `HALLMARK_*` > `hallmark.toml` > default. Settings never change what a spec says."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import NotFound, SpecError, UnknownName

FILE = "hallmark.toml"

DEFAULTS: dict[str, str] = {
    "engine": "auto",
    "host": "127.0.0.1",
    "port": "8000",
    "lock_wait_s": "20",
    "decision_log": "group",
    "approvals": "1",
    "certificate_days": "90",
    "principal": "",
    "checkpoint_publish": "",
    "replicas": "1",
    "restart_limit": "8",
    "restart_wait_s": "0.5",
    "probe_deadline_s": "20",
    "engine_down": "stay",
    "switch": "side_by_side",
    "drain_s": "30",
    "unsafe_unverified_engine": "",
    "unsafe_unverified_key_env": "",
    "unsafe_unverified_model": "",
    "admin_port": "",
    "otlp_endpoint": "",
    "log_format": "text",
    "max_running": "512",
    "max_waiting": "512",
    "max_wait_s": "5",
    "max_body_bytes": "1048576",
    "max_body_s": "30",
    "max_bodies_bytes": "268435456",
    "max_request_s": "600",
    "max_answer_bytes": "16777216",
    "max_connections": "4096",
    "max_head_s": "10",
    "max_idle_s": "75",
    "max_stalled_s": "60",
    "max_handshake_s": "10",
    "max_linger_s": "5",
    "max_wire_bytes": "8388608",
}
"""Every setting with its default.

`decision_log` is `group` (durable within a moment) or `strict` (a durable intent before the first byte, an outcome
before the end mark). `principal` empty means: the workspace key whose role fits the command. `checkpoint_publish` is a
folder, git repository or URL that gets each signed checkpoint; empty means none.

Of the endpoint: `replicas` engines answer side by side; one that ended, or was silent for `probe_deadline_s`, starts
again after `restart_wait_s`, longer each time, `restart_limit` times in a row, and `engine_down` says what then (`stay`
refused, or `stop`). `switch` is `side_by_side` (the next release is ready before the last one goes) or `stop_first`
(memory for one). `drain_s` is what running requests get to end. `unsafe_unverified_engine` is the URL of an engine that
somebody else runs, `unsafe_unverified_key_env` the variable that holds its key, `unsafe_unverified_model` its model's
name there. `admin_port` (empty: none) has health, metrics and the OpenAPI document, `otlp_endpoint` (empty: none) gets
traces, `log_format` is `text` or `json`.

What an endpoint bears: `max_running` requests at work, `max_waiting` more in line for at most `max_wait_s`; a body of
`max_body_bytes` within `max_body_s`, bodies that still arrive of `max_bodies_bytes` together; `max_request_s` for a
request, `max_answer_bytes` for an engine's whole answer. Of `max_connections` each has `max_head_s` for a head,
`max_idle_s` between requests, `max_stalled_s` without reading, `max_handshake_s` for TLS, `max_linger_s` to stop
sending once it is answered, and `max_wire_bytes` on the wire for a body.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one workspace with where each value came from (`flag`, `environment`, `hallmark.toml`, `default`)."""

    root: Path
    workspace_id: str
    values: Mapping[str, str]
    sources: Mapping[str, str]
    principals: Mapping[str, str] = field(default_factory=dict)
    """Role name to the principal that acts in that role, from `[principals]` of hallmark.toml."""
    signers: Mapping[str, str] = field(default_factory=dict)
    """Principal to the command that signs for it, from `[signers]` of hallmark.toml (`registry.signers`)."""
    issuers: tuple[Mapping[str, Any], ...] = ()
    """`[[issuers]]` of hallmark.toml: whose tokens name callers of the endpoint (`policies.access.credentials`)."""
    tls: Mapping[str, Any] = field(default_factory=dict)
    """`[tls]` of hallmark.toml: the endpoint's certificate, and whose certificates name callers."""

    def __getitem__(self, name: str) -> str:
        """Return a setting's value; raises UnknownName."""
        try:
            return self.values[name]
        except KeyError:
            raise UnknownName("setting", name, DEFAULTS) from None

    def number(self, name: str) -> float:
        """Return a setting as a number. Raises SpecError naming where the value came from."""
        try:
            return float(self[name])
        except ValueError:
            raise SpecError(
                f"expected a number, found `{self[name]}`", field=name, hint=f"it comes from {self.sources[name]}"
            ) from None


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds a `hallmark.toml`. Raises NotFound."""
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    raise NotFound(
        f"no workspace at or above `{start}`", hint="run `hallmark init DIR`, or name one with `--workspace DIR`"
    )


def read(root: Path, flags: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the workspace at `root`. Raises NotFound, SpecError, UnknownName."""
    path = root / FILE
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"`{root}` is not a workspace: it has no `{FILE}`", hint="run `hallmark init DIR`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"not valid TOML: {error}", file=str(path), hint="mend the line it names") from None
    workspace_id = document.pop("workspace", None)
    principals = _table(document, "principals", path)
    signers = _table(document, "signers", path)
    issuers, tls = _doors(document, path)
    if not isinstance(workspace_id, str):
        raise SpecError("required field is missing", file=str(path), field="workspace", hint="restore the file")
    for name in document:
        if name not in DEFAULTS:
            raise SpecError(
                f"unknown setting `{name}`", file=str(path), hint=UnknownName("setting", name, DEFAULTS).hint
            )
    values, sources = dict(DEFAULTS), dict.fromkeys(DEFAULTS, "default")
    for name in DEFAULTS:
        variable = f"HALLMARK_{name.upper()}"
        for source, found in (
            (FILE, document.get(name)), (variable, os.environ.get(variable)), ("flag", (flags or {}).get(name)),
        ):  # fmt: skip
            if found is not None:
                values[name], sources[name] = str(found), source
    return Settings(root, workspace_id, values, sources, principals, signers, tuple(issuers), tls)


def _doors(document: dict[str, Any], path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Take `[[issuers]]` and `[tls]` out of the document; their content is judged where it is used. SpecError."""
    issuers, tls = document.pop("issuers", []), document.pop("tls", {})
    if not isinstance(issuers, list) or not all(isinstance(each, dict) for each in issuers):
        raise SpecError("expected `[[issuers]]` tables", file=str(path), field="issuers", hint="mend its lines")
    if not isinstance(tls, dict):
        raise SpecError("expected a `[tls]` table", file=str(path), field="tls", hint="mend its lines")
    return issuers, tls


def _table(document: dict[str, Any], name: str, path: Path) -> dict[str, str]:
    """Take a table of texts out of the document. Raises SpecError."""
    table = document.pop(name, {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise SpecError('expected a table of `name = "text"`', file=str(path), field=name, hint="mend its lines")
    return table
