"""`hallmark log`: the journal, its checkpoints and proofs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from governance.cli.app import Session, command


@click.group()
def log() -> None:
    """Show, verify and sign the journal; prove what is in it."""


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
        row["leaf"] = row["leaf"].hex() if row.get("leaf") else None
    lines = [f"{r['seq']:>6}  {r['ts'][:19]}  {r['actor']:<14} {r['kind']:<20} {r['subject'][:40]}" for r in rows]
    session.emit(rows, lines)


@log.command("verify")
@click.option("--checkpoint", "anchors", multiple=True, metavar="PLACE",
              help="Checkpoints held outside: file, folder, http(s) URL, git repository. May be repeated.")  # fmt: skip
@click.option("--receipt", "receipts", multiple=True, type=click.Path(path_type=Path),
              help="A file with receipts, whose records must still be there. May be repeated.")  # fmt: skip
@click.option("--copy", "copies", multiple=True, type=click.Path(path_type=Path, file_okay=False),
              help="An earlier copy of the folder `journal/`. May be repeated.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Compare the projection's hashes and leaves, not every row.")
@command
def verify(
    session: Session, anchors: tuple[str, ...], receipts: tuple[Path, ...], copies: tuple[Path, ...], quick: bool
) -> None:
    """Walk the whole journal; exit 1 and name the first bad record.

    A log that was cut or written anew as a whole is found only with what lies outside the workspace.

    Example: hallmark log verify --checkpoint /mnt/kept/checkpoints --receipt receipt.json
    """
    from governance.log import examine

    found = examine(session.ws, anchors, receipts, copies, rows=not quick)
    shown = found.verification()
    session.emit(found, shown.lines())
    session.exit(shown.exit_code)


@log.command("checkpoint")
@click.option("--publish", "target", metavar="PLACE",
              help="Folder, git repository or URL to put it at; default: the setting checkpoint_publish.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the checkpoint; record and publish nothing.")
@command
def checkpoint(session: Session, target: str | None, dry_run: bool) -> None:
    """Sign how many records the log has and what their tree's root is, record it, and publish it.

    Example: hallmark log checkpoint --publish /mnt/kept/checkpoints
    """
    from registry import checkpoints
    from registry.errors import HallmarkError, Tampered

    ws = session.ws
    actor, place = session.actor("checkpoint", "log"), target or ws.settings["checkpoint_publish"]
    made = (checkpoints.draft if dry_run else checkpoints.sign)(ws, actor)
    published = ""
    if place and not dry_run:
        try:
            published = checkpoints.publish(ws, made, place)
        except HallmarkError as error:
            kind = Tampered if isinstance(error, Tampered) else HallmarkError
            raise kind(
                f"the checkpoint over {made.size} records is signed and recorded, but not published: {error.message}",
                hint=error.hint,
            ) from None
    data = {"origin": made.origin, "size": made.size, "root": made.root.hex(), "time": made.time, "note": made.note,
            "recorded": not dry_run, "published": published}  # fmt: skip
    session.emit(data, made.note + (f"published at {published}" if published else "not published"))


@log.command("prove")
@click.argument("record", metavar="SEQ|HASH")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the proof to this file.")
@command
def prove(session: Session, record: str, out: Path | None) -> None:
    """Prove that a record is in the tree of the newest checkpoint.

    Example: hallmark log prove 42 --out proof.json
    """
    from governance.proofs import prove as proof_of

    proof = proof_of(session.ws, record)
    path = [f"     {step}" for step in proof["proof"]]
    lines = [f"record {proof['seq']} is leaf {proof['index']} of the newest checkpoint over {proof['size']} records"]
    lines += [f"leaf {proof['leaf']}", *path, f"root {proof['root']}"]
    _deliver(session, proof, out, lines)


@log.command("receipt")
@click.argument("record", metavar="SEQ|HASH")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the receipt to this file.")
@command
def receipt(session: Session, record: str, out: Path | None) -> None:
    """Give a record's receipt: kept elsewhere, it shows later whether the record is still there.

    Example: hallmark log receipt 42 --out receipt.json
    """
    from governance.proofs import receipt_of

    given = receipt_of(session.ws, record)
    _deliver(session, given, out, [f"{name} {value}" for name, value in given.items()])


def _deliver(session: Session, data: dict[str, Any], out: Path | None, lines: list[str]) -> None:
    """Show a document, or write it to a file and say so."""
    import orjson

    if out:
        out.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
        lines = [f"written to {out}"]
    session.emit(data, lines)
