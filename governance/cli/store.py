"""`hallmark store`: the projection of the journal, and the objects."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.group()
def store() -> None:
    """The projection and the objects: rebuild, collect, figures."""


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
    """Count events, assets, rows and stored objects.

    Example: hallmark store stats
    """
    from governance.collection import stored

    ws = session.ws
    tables = ("event", "asset", "edge", "sample_result", "gateway_decision", "alias_history", "approval")
    counts = {name: ws.store.query(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in tables}  # noqa: S608
    counts["journal_bytes"] = sum(path.stat().st_size for path in ws.journal.segments())
    held = list(stored(ws))
    counts["objects"] = sum(item.digest.startswith("blake3:") for item in held)
    counts["manifests"] = len(held) - counts["objects"]
    counts["object_bytes"] = sum(item.size for item in held)
    session.emit(counts, [f"{name:<18} {count:>15,}" for name, count in counts.items()])


@store.command("collect")
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@click.option("--older-than", "hours", type=float, default=24.0, show_default=True, metavar="HOURS",
              help="Spare what is younger.")  # fmt: skip
@command
def collect(session: Session, dry_run: bool, hours: float) -> None:
    """Delete objects that no asset, release, hold or event names; adds in flight are spared.

    Example: hallmark store collect --dry-run
    """
    from governance import collection

    found = collection.collect(
        session.ws, grace_h=hours, dry_run=dry_run, actor=session.as_name, progress=session.progress
    )
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {found.count:,} objects and manifests, {found.bytes:,} bytes; {found.strays} stray files",
             *[f"  {digest}" for digest in found.digests[:20]]]  # fmt: skip
    session.emit(found, lines)
