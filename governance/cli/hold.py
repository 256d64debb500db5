"""`hallmark hold`: legal holds."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.group()
def hold() -> None:
    """Legal holds: what they cover is not deleted."""


@hold.command("place")
@click.argument("target", metavar="TARGET")
@click.option("--reason", required=True, help="Which matter it is for.")
@command
def place(session: Session, target: str, reason: str) -> None:
    """Keep an asset, all it was made from and its evidence, until the hold is lifted.

    Example: hallmark hold place code:3 --reason "matter 2026-14"
    """
    from governance import holds

    found = holds.place(session.ws, target, reason=reason, actor=session.as_name)
    session.emit(found, f"hold {found.id} on {found.label}")


@hold.command("lift")
@click.argument("ident", metavar="ID")
@click.option("--reason", required=True, help="Why it ends.")
@command
def lift(session: Session, ident: str, reason: str) -> None:
    """End a hold.

    Example: hallmark hold lift 3f9a01c2b4d5 --reason "matter closed"
    """
    from governance import holds

    found = holds.lift(session.ws, ident, reason=reason, actor=session.as_name)
    session.emit(found, f"hold {found.id} lifted")


@hold.command("list")
@click.option("--all", "every", is_flag=True, help="Lifted ones too.")
@command
def list_holds(session: Session, every: bool) -> None:
    """List the holds that stand.

    Example: hallmark hold list
    """
    from governance import holds

    found = [item for item in holds.holds(session.ws) if every or not item.lifted]
    lines = [f"{item.id}  {item.label:<28}  {item.ts[:19]}  {item.by}  {item.reason}"
             + (f"  (lifted {item.lifted[:19]})" if item.lifted else "") for item in found]  # fmt: skip
    session.emit(found, lines)
