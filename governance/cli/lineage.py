"""`hallmark lineage`: what an asset was made from and led to, what changed between two, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from registry.records import Asset


@click.command()
@click.argument("ref")
@click.option("--diff", "other", metavar="OTHER", help="What changed from OTHER to REF, and why.")
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it.")
@click.option("--depth", type=click.IntRange(1, 32), default=32, show_default=True, help="How many steps away at most.")
@click.option("--note", "text", metavar="TEXT", help="Record why it was made; shown by `--diff`.")
@command
def lineage(
    session: Session, ref: str, other: str | None, up: bool, down: bool, depth: int, text: str | None
) -> None:  # fmt: skip
    """Show what an asset of any kind was made from and what was made from it.

    REF is an id or its beginning, NAME, NAME:NUMBER, NAME@ALIAS, or one of these behind a kind: dataset/code:2,
    run/code, release/prod. A bare name means a version before anything else.

    Example: hallmark lineage code:2 --diff code:1
    """
    from registry import lineage as room

    asset = room.find(session.ws, ref)
    if text is not None:
        _note(session, asset, text)
    elif other:
        _diff(session, asset, other)
    else:
        _tree(session, asset, up=up or not down, down=down or not up, depth=depth)


def _tree(session: Session, asset: Asset, *, up: bool, down: bool, depth: int) -> None:
    from governance.cli import tree
    from registry import lineage as room
    from registry.records import plain

    data: dict[str, Any] = {"asset": asset.id, "kind": asset.kind}
    lines = [tree.line(plain(asset))]
    for wanted, key, title, walk in (
        (up, "ancestry", "made from", room.ancestry),
        (down, "impact", "led to", room.impact),
    ):
        if wanted:
            found = walk(session.ws, asset.id, depth)
            data[key] = found
            lines += ["", title, *(tree.draw(asset.id, found) or ["  nothing"])]
    session.emit(data, lines)


def _diff(session: Session, asset: Asset, other: str) -> None:
    from governance.cli import tree
    from registry import lineage as room
    from registry.errors import UnknownName

    try:
        before = room.find(session.ws, other, asset.kind)
    except UnknownName:
        before = room.find(session.ws, other)
    found = room.difference(session.ws, before.id, asset.id)
    names = {each.id: f"{each.kind} {each.name}:{each.number}" for each in (before, asset)}
    title = f"from {names[before.id]} {before.id[7:19]} to {asset.name}:{asset.number} {asset.id[7:19]}"
    session.emit(found, tree.tell(found, title, names))


def _note(session: Session, asset: Asset, text: str) -> None:
    from governance.remarks import note

    event = note(session.ws, asset, text, actor=session.as_name)
    session.emit(event, f"noted on {asset.kind} {asset.name}:{asset.number} {asset.id[7:19]} by {event.actor}")
