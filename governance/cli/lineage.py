"""`hallmark lineage`: ancestry, impact, what changed."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("version")
@click.option("--diff", "other", metavar="OTHER", help="What changed from OTHER to VERSION, and why.")
@command
def lineage(session: Session, version: str, other: str | None) -> None:
    """Show what a version was made from and what was made from it.

    Example: hallmark lineage code --diff base
    """
    from registry import lineage as room

    ws = session.ws
    asset = ws.resolve(version, "version")
    if other:
        changes = room.difference(ws, ws.resolve(other, "version").id, asset.id)
        lines = [f"{change['what']:<34} {change['from']} -> {change['to']}" for change in changes]
        session.emit(changes, lines or "no difference")
        return
    up, down = room.ancestry(ws, asset.id), room.impact(ws, asset.id)
    lines = ["made from", *[f"{'  ' * node['depth']}{node['relation']}: {node['label']}" for node in up]]
    lines += ["led to", *[f"{'  ' * node['depth']}{node['relation']}: {node['label']}" for node in down]]
    session.emit({"version": asset.id, "ancestry": up, "impact": down}, [f"{asset.name}:{asset.number}", *lines])
