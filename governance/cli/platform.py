"""`hallmark platform`: the policy that says which role may do what, and the operators' votes that change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from governance.platform import Vote


@click.group()
def platform() -> None:
    """Who may do what here: show the policy, check a change, vote for it."""


@platform.command("show")
@click.option("--shipped", is_flag=True, help="The policy that ships with this release, whatever governs here.")
@click.option("--digest", help="A policy that governed before or was voted for, by its digest.")
@command
def show(session: Session, shipped: bool, digest: str | None) -> None:
    """Print the platform policy that governs, who voted for it, and the changes that wait for votes.

    Example: hallmark platform show
    """
    from governance import platform as policy

    if shipped or digest:
        text = policy.shipped(policy.FILE) if shipped else policy.text_of(session.ws, digest or "")
        session.emit({"policy": text}, text.rstrip("\n"))
        return
    _, active = policy.standing(session.ws)
    text = policy.read(session.ws, active).text
    waiting = policy.pending(session.ws)
    session.emit({"active": active, "pending": waiting, "policy": text}, text.rstrip("\n"))
    session.say(f"note: {active.digest}, signed by {', '.join(active.voters)}")
    for vote in waiting:
        session.say(f"note: waiting: {_line(vote)}; `hallmark platform show --digest {vote.digest}` prints it")


@platform.command("check")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@command
def check(session: Session, file: Path) -> None:
    """Check a platform policy against the schema and the rules none may break; print what it would change.

    Example: hallmark platform check platform.cedar
    """
    from governance import platform as policy
    from governance.permissions import examine

    known, active = policy.standing(session.ws)
    found = examine(policy.parse(file.read_text(encoding="utf-8")), policy.read(session.ws, active), known.values())
    lines = [f"refused: {line}" for line in found.refusals] + found.changes
    session.emit(found, lines or "no role gains or loses a verb")
    session.exit(1 if found.refusals else 0)


@platform.command("change")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--reason", required=True, help="Signed with the vote.")
@command
def change(session: Session, file: Path, reason: str) -> None:
    """Sign for a new platform policy; it governs once a majority of the operators signed for the same text.

    Exit 3 while votes are missing.

    Example: hallmark platform change platform.cedar --reason "auditors may export"
    """
    from governance import platform as policy
    from governance.roles import voter

    actor = voter(session.ws, session.as_name).name
    text = file.read_text(encoding="utf-8")
    found = policy.vote(session.ws, text, reason=reason, actor=actor, passphrase=session.passphrase)
    session.emit(found, ("active: " if found.activated else "not yet: ") + _line(found))
    session.exit(0 if found.activated else 3)


def _line(vote: Vote) -> str:
    return f"{len(vote.voters)} of {vote.needed} operators ({', '.join(vote.voters)}) for {vote.digest}"
