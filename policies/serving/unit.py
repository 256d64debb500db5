"""A systemd unit for an endpoint: it says when it is ready, is watched, and may write to its workspace only."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from policies.serving.plan import Plan
from registry.errors import SpecError

UNIT = """\
# {name}: made by `hallmark serve --print-unit`. Put it at /etc/systemd/system/{file}, then
# `systemctl daemon-reload && systemctl enable --now {file}`. `systemctl reload` looks for a new release at once.
[Unit]
Description=Hallmark endpoint of {name}
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
User={user}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={root}
Environment=HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
# An engine may take its time to start; running requests get theirs to end.
TimeoutStartSec={start}
TimeoutStopSec={stop}
WatchdogSec=30
Restart=on-failure
RestartSec=5
# 1 is a refusal (no certificate, a changed byte), 2 a mistake in settings: trying again would change nothing.
RestartPreventExitStatus=1 2
KillMode=mixed
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
ProtectSystem=strict
ReadWritePaths={root}
ProtectHome=read-only
PrivateTmp=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""
LAST_PRIVILEGED_PORT = 1023


def unit_name(plan: Plan) -> str:
    """Return the unit's file name."""
    return f"hallmark-{plan.name}.service"


def unit_text(root: Path, plan: Plan, *, user: str | None = None, arguments: Sequence[str] = ()) -> str:
    """Return the unit that serves a plan from the workspace at `root`.

    Args:
        root: the workspace.
        plan: what is served, where.
        user: the account it runs under; default the one that asks.
        arguments: further words of the command line.

    Raises:
        SpecError: a path or word that a unit file cannot hold, or a permit, which is for one evaluation.
    """
    if plan.alias is None:
        raise SpecError("a permit is for one evaluation: no unit serves it", hint="name an alias")
    also = [word for alias in plan.also for word in ("--also", alias)]
    words = [sys.executable, "-P", "-m", "governance.cli.main", "serve", plan.alias, *also, "--workspace",
             str(root.resolve()), "--host", plan.host, "--port", str(plan.port), *arguments]  # fmt: skip
    if plan.remote is not None:
        words += ["--engine", plan.engine]
    return UNIT.format(
        name=plan.name,
        file=unit_name(plan),
        user=user or getpass.getuser(),
        command=" ".join(map(_quoted, words)),
        root=_plain_path(root.resolve()),
        start=round(plan.upkeep.ready_s) + 300,
        stop=round(plan.upkeep.drain_s) + 60,
        capabilities="CAP_NET_BIND_SERVICE" if 0 < plan.port <= LAST_PRIVILEGED_PORT else "",
    )


def _quoted(word: str) -> str:
    """Return a word of a command line as systemd.service(5) reads it."""
    if any(not char.isprintable() for char in word):
        raise SpecError(f"a unit file cannot hold {word!r}", hint="choose another path")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or " " in word or "'" in word else word


def _plain_path(path: Path) -> str:
    text = str(path)
    if any(char.isspace() or char in "\"'\\" or not char.isprintable() for char in text):
        raise SpecError(f"a unit file cannot hold the path `{text}`", hint="move the workspace to a plainer path")
    return text.replace("%", "%%")
