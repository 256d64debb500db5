"""`hallmark drift`: compare windows of the decision log."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command

EXIT = {"quiet": 0, "drift": 1, "too_little_data": 3}


@click.group()
def drift() -> None:
    """Compare windows of the decision log."""


@drift.command("check")
@click.argument("alias")
@click.option("--since", help="Start of the current window, UTC ISO 8601; default: the newer half of the log.")
@click.option("--reference-since", help="Start of the reference window; default: the start of the log.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write evidently's report there.")
@command
def check(session: Session, alias: str, since: str | None, reference_since: str | None, html: Path | None) -> None:
    """Judge drift of an alias's traffic: exit 0 quiet, 1 drift, 3 too little data. Made for cron.

    Example: hallmark drift check prod --html drift.html
    """
    import evals.drift.check as room
    from registry.records import plain

    actor = session.actor("check-drift", alias)
    session.ws.release(alias)
    window = room.check(
        session.ws,
        alias,
        since=since,
        reference_since=reference_since,
        actor=actor,
        html=html,
        progress=session.progress,
    )
    lines = [f"{window.verdict}  alias {alias}"]
    lines += [f"  {row}" for row in room.describe(window)]
    if window.html and html:
        lines.append(f"  report {html}")
    session.emit(plain(window), lines)
    session.exit(EXIT[window.verdict])
