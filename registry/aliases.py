"""Aliases: what each points at, moved by compare-and-set. The journal is the truth, the pointer file its projection."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import NotFound, Refused, Tampered
from registry.records import Certificate, Release, plain
from registry.state import State
from registry.workspace import Workspace

MOVED = "alias.moved"


@dataclass(frozen=True, slots=True)
class Head:
    """What an alias points at by its newest move: the release, its id, who moved it and when (UTC, ISO 8601)."""

    release: Release
    id: str
    actor: str
    ts: str


def head(ws: Workspace, alias: str) -> Head | None:
    """Return where the journal says that an alias points, None for one that never moved. Raises Tampered, Locked."""
    with ws.store.lock():
        return _head(ws.store.state(), alias)


def heads(ws: Workspace) -> dict[str, Head]:
    """Return every alias with what it points at, in name order."""
    with ws.store.lock():
        state = ws.store.state()
        return {name: found for name in sorted(state.aliases) if (found := _head(state, name))}


def move(ws: Workspace, release: Release, expected: str | None, actor: str) -> None:
    """Point an alias at a release, if it still points where the mover saw it. The caller verified the certificate.

    The event is durable before the pointer file changes: a crash between the two is mended by `settle`.

    Args:
        ws: the workspace.
        release: what the alias shall point at; `release.alias` names it.
        expected: id of the release that the mover saw, empty for none; None moves it from wherever it is.
        actor: who moves it; the event carries their signature where their key opens here.

    Raises:
        Refused: someone else moved it since; says who, when and to what. Nothing was changed.
        NotFound: the certificate is not registered: an alias never dangles.
        SpecError: the alias's name is none.
        Tampered: the newest move in the journal is not what its pointer says.
    """
    ws.pointer(release.alias)  # judges the name before the journal says that it moved
    with ws.store.lock():
        state = ws.store.state()
        check_unmoved(release.alias, _head(state, release.alias), expected)
        if state.assets.get(release.certificate, ("",))[0] != Certificate.KIND:
            raise NotFound(
                f"no certificate `{release.certificate}`", hint="an alias points at a certificate that is there"
            )
        body = {"certificate": release.certificate, "candidate": release.candidate, "version": release.version,
                "reason": release.reason, "release": release.id, "pointer": plain(release)}  # fmt: skip
        ws.record(MOVED, release.alias, body, actor=actor)
        ws.point(release)


def check_unmoved(alias: str, now: Head | None, expected: str | None) -> None:
    """Raise Refused, naming who moved it where and when, unless an alias stands where it was expected."""
    if expected is None or (now.id if now else "") == expected:
        return
    if now is None:
        raise Refused(f"alias `{alias}` points nowhere, not at the expected release", hint="look, then promote again")
    raise Refused(
        f"alias `{alias}` was moved by `{now.actor}` on {now.ts[:19]} to certificate "
        f"{now.release.certificate[7:19]} ({now.release.reason}): nothing was changed",
        hint=f"look at `hallmark release history {alias}`, then run the command again",
    )


def settle(ws: Workspace) -> list[str]:
    """Rewrite pointer files that a crash left behind the journal; return the aliases that were mended.

    Only a missing pointer, or one that the journal recorded earlier, is mended: other content is left to be refused.
    """
    mended = []
    with ws.store.lock():
        for alias, now in heads(ws).items():
            try:
                current = ws.release(alias).id
            except Tampered:
                continue
            except NotFound:
                current = ""
            if current != now.id and (not current or _was_head(ws, alias, current)):
                ws.point(now.release)
                mended.append(alias)
    return mended


def _head(state: State, alias: str) -> Head | None:
    found = state.aliases.get(alias)
    if found is None:
        return None
    try:
        release = Release(**found["pointer"])
    except (KeyError, TypeError):
        raise Tampered(
            f"the newest move of alias `{alias}` names no release", hint="see `hallmark log verify`; restore a copy"
        ) from None
    if release.alias != alias or release.id != found["release"]:
        raise Tampered(
            f"the newest move of alias `{alias}` is not of the release it names", hint="see `hallmark log verify`"
        )
    return Head(release, release.id, found["actor"], found["ts"])


def _was_head(ws: Workspace, alias: str, release: str) -> bool:
    """Say whether the journal ever pointed an alias at a release."""
    return bool(ws.store.query("SELECT 1 FROM alias_history WHERE alias = ? AND release = ? LIMIT 1", [alias, release]))
