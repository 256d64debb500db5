"""`hallmark approve`, `promote`, `rollback`, `revoke`."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("version")
@click.option("--reason", required=True, help="Why; it is signed with the approval.")
@command
def approve(session: Session, version: str, reason: str) -> None:
    """Sign an approval of a candidate whose gate decision is PASS.

    Example: hallmark approve code --reason "beats the base on our code, general text unharmed"
    """
    from governance import approvals
    from governance.candidates import existing_candidate

    asset = existing_candidate(session.ws, version)
    given = approvals.approve(session.ws, asset, reason=reason, actor=session.as_name, passphrase=session.passphrase)
    session.emit(given, f"approved candidate {asset.id[7:19]} as {given.principal} (key {given.keyid[:16]})")


@click.command()
@click.argument("version")
@click.option("--to", "alias", required=True, metavar="ALIAS", help="The alias that endpoints serve.")
@click.option("--reason", default="promoted", help="Kept in the alias's history.")
@command
def promote(session: Session, version: str, alias: str, reason: str) -> None:
    """Certify a candidate that passed and was approved, and point an alias at it.

    Example: hallmark promote code --to prod
    """
    from governance import promotion
    from governance.candidates import existing_candidate

    asset = existing_candidate(session.ws, version)
    done = promotion.promote(
        session.ws, asset, alias, actor=session.as_name, reason=reason, passphrase=session.passphrase
    )
    _tell(session, done)


@click.command()
@click.argument("alias")
@click.option("--to", "version", metavar="VERSION", help="Default: the release before the current one.")
@click.option("--reason", required=True, help="Kept in the alias's history.")
@command
def rollback(session: Session, alias: str, version: str | None, reason: str) -> None:
    """Point an alias back at an earlier release, whose certificate and bytes are verified first.

    Example: hallmark rollback prod --reason "refusals doubled"
    """
    from governance import promotion

    _tell(session, promotion.rollback(session.ws, alias, to=version, actor=session.as_name, reason=reason))


@click.command()
@click.argument("certificate")
@click.option("--reason", required=True, help="Kept in the journal.")
@command
def revoke(session: Session, certificate: str, reason: str) -> None:
    """Revoke a certificate: no endpoint starts on it again.

    Example: hallmark revoke 3f9a1c --reason "training data withdrawn"
    """
    from governance import promotion

    asset = promotion.revoke(session.ws, certificate, reason=reason, actor=session.as_name)
    session.emit(asset, f"revoked certificate {asset.id[7:19]}")


def _tell(session: Session, done: object) -> None:
    from governance.promotion import Promoted

    assert isinstance(done, Promoted)  # noqa: S101 (for the type checker)
    release = done.release
    verb = "now points at" if done.moved else "already points at"
    session.emit(
        {"release": release, "certificate": done.certificate.id, "moved": done.moved},
        [
            f"alias {release.alias} {verb} {done.certificate.name} (version {release.version[7:19]})",
            f"certificate {release.certificate[7:19]}, expires {done.certificate.body['expires'][:10]}",
        ],
    )
