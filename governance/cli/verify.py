"""`hallmark verify`: is everything as recorded and signed."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("target")
@command
def verify(session: Session, target: str) -> None:
    """Verify an alias, a version, a dataset, a certificate or `log`: every byte, signature and link of it.

    Example: hallmark verify prod
    """
    from governance.verification import verify as check

    found = check(session.ws, target)
    session.emit(found, found.lines())
    session.exit(found.exit_code)
