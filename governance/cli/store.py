"""`hallmark store`: the projection of the journal."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.group()
def store() -> None:
    """The projection: rebuild, figures."""


@store.command("rebuild")
@command
def rebuild(session: Session) -> None:
    """Make the projection again from the journal: same rows, same order.

    Example: hallmark store rebuild
    """
    count = session.ws.store.rebuild()
    session.emit({"events": count}, f"rebuilt from {count} events")


@store.command("stats")
@command
def stats(session: Session) -> None:
    """Count events, assets and rows.

    Example: hallmark store stats
    """
    ws = session.ws
    tables = ("event", "asset", "edge", "sample_result", "gateway_decision", "alias_history", "approval")
    counts = {name: ws.store.query(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in tables}  # noqa: S608
    counts["journal_bytes"] = sum(path.stat().st_size for path in ws.journal.segments())
    session.emit(counts, [f"{name:<18} {count:>10,}" for name, count in counts.items()])
