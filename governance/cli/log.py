"""`hallmark log`: the journal."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.group()
def log() -> None:
    """Show and verify the journal."""


@log.command("show")
@click.option("-n", "count", default=20, show_default=True, help="How many of the newest events.")
@click.option("--kind", help="Only this kind, e.g. alias.moved.")
@command
def show(session: Session, count: int, kind: str | None) -> None:
    """Show the newest events.

    Example: hallmark log show -n 5 --kind access.denied
    """
    import orjson

    where, params = ("WHERE kind = ?", [kind]) if kind else ("", [])
    rows = session.ws.store.query(
        f"SELECT * FROM (SELECT * FROM event {where} ORDER BY seq DESC LIMIT ?) ORDER BY seq",  # noqa: S608
        [*params, count],
    )
    for row in rows:
        row["body"] = orjson.loads(row["body"])
    lines = [f"{r['seq']:>6}  {r['ts'][:19]}  {r['actor']:<14} {r['kind']:<20} {r['subject'][:40]}" for r in rows]
    session.emit(rows, lines)


@log.command("verify")
@command
def verify(session: Session) -> None:
    """Walk the whole journal; exit 1 and name the first bad record.

    Example: hallmark log verify
    """
    from governance.verification import verify_log

    found = verify_log(session.ws)
    session.emit(found, found.lines())
    session.exit(found.exit_code)
