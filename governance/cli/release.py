"""`hallmark approve`, `promote`, `rollback`, `revoke`, and `release`: what each alias points at, and since when."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("version")
@click.option("--reason", required=True, help="Why; it is signed with the approval.")
@click.option("--withdraw", is_flag=True, help="Take back the approval you gave; certificates already issued stand.")
@command
def approve(session: Session, version: str, reason: str, withdraw: bool) -> None:
    """Sign an approval of a candidate whose gate decision is PASS, or take yours back.

    Example: hallmark approve code --reason "beats the base on our code, general text unharmed"
    """
    from governance import approvals
    from governance.candidates import existing_candidate

    asset = existing_candidate(session.ws, version)
    if withdraw:
        taken = approvals.withdraw(session.ws, asset, reason=reason, actor=session.as_name)
        session.emit(taken, f"withdrew the approval of candidate {asset.id[7:19]} by {taken.principal}")
        return
    given = approvals.approve(session.ws, asset, reason=reason, actor=session.as_name, passphrase=session.passphrase)
    session.emit(given, f"approved candidate {asset.id[7:19]} as {given.principal} (key {given.keyid[:16]})")


@click.command()
@click.argument("version")
@click.option("--to", "alias", required=True, metavar="ALIAS", help="The alias that endpoints serve.")
@click.option("--reason", default="promoted", help="Kept in the alias's history.")
@click.option("--expect", metavar="CERTIFICATE", help="Only if the alias points at this certificate now; or `none`.")
@command
def promote(session: Session, version: str, alias: str, reason: str, expect: str | None) -> None:
    """Certify a candidate that passed and was approved, and point an alias at it.

    Somebody who moved the alias since this command began is not overwritten: it is refused and names them.

    Example: hallmark promote code --to prod
    """
    from governance import promotion
    from governance.candidates import existing_candidate

    asset = existing_candidate(session.ws, version)
    done = promotion.promote(
        session.ws, asset, alias, actor=session.as_name, reason=reason, expect=expect, passphrase=session.passphrase
    )
    _tell(session, done)


@click.command()
@click.argument("alias")
@click.option("--to", "version", metavar="VERSION", help="Default: the release before the current one.")
@click.option("--reason", default="", help="Kept in the alias's history; a rollback needs one.")
@click.option("--drill", is_flag=True, help="Do everything except move the alias; record how it went.")
@command
def rollback(session: Session, alias: str, version: str | None, reason: str, drill: bool) -> None:
    """Point an alias back at an earlier release, whose certificate and bytes are verified first.

    Example: hallmark rollback prod --reason "refusals doubled"
    """
    from governance import drills, promotion
    from registry.errors import Refused

    if drill:
        found = drills.drill(session.ws, alias, to=version, actor=session.as_name, reason=reason)
        session.emit(found, found.lines())
        session.exit(found.exit_code)
    if not reason.strip():
        raise Refused("a rollback needs a reason", hint="give one with `--reason`")
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


@click.group()
def release() -> None:
    """What each alias points at, since when, and why."""


@release.command("list")
@command
def list_releases(session: Session) -> None:
    """List aliases with certificate, expiry, since when, by whom and why; each is verified now.

    Example: hallmark release list
    """
    from governance import releases

    found = releases.standings(session.ws)
    lines = [f"{'alias':<12} {'model':<16} {'certificate':<12} {'expires':<10} {'since':<19} {'by':<12} reason"]
    for one in found:
        lines.append(
            f"{one.alias:<12} {one.name:<16} {one.certificate[7:19]} {one.expires[:10]} {one.since[:19]} {one.by:<12}"
            f" {one.reason}"
        )
        lines += [f"{'':<12} refused: {one.problem}"] if one.problem else []
    session.emit(found, lines if found else "no alias was promoted yet")


@release.command("show")
@click.argument("alias")
@command
def show(session: Session, alias: str) -> None:
    """Show one alias, verified now; exit 1 where its release does not hold.

    Example: hallmark release show prod
    """
    from governance import releases

    found = releases.standing(session.ws, alias)
    lines = [
        f"alias        {found.alias}",
        f"model        {found.name} (version {found.version[7:19]})",
        f"certificate  {found.certificate[7:19]}, expires {found.expires[:19]}",
        f"since        {found.since[:19]} by {found.by}: {found.reason}",
        f"refused      {found.problem}" if found.problem else "holds        yes",
    ]
    session.emit(found, lines)
    if found.problem:
        session.exit(1)


@release.command("history")
@click.argument("alias")
@command
def history(session: Session, alias: str) -> None:
    """Show every move of an alias, oldest first, with actor and reason.

    Example: hallmark release history prod
    """
    from governance import releases

    moves = releases.history(session.ws, alias)
    session.emit(
        moves, [f"{m.ts[:19]}  {m.certificate[7:19]}  version {m.version[7:19]}  {m.actor}: {m.reason}" for m in moves]
    )


@release.command("settle")
@command
def settle(session: Session) -> None:
    """Finish moves that a crash cut off: rewrite pointer files from the journal.

    Only a missing pointer file, or one the journal knows from earlier, is rewritten; anything else stays refused.

    Example: hallmark release settle
    """
    from governance import promotion

    session.actor("rollback", "releases")
    mended = promotion.settle(session.ws)
    session.emit(mended, [f"mended {alias}" for alias in mended] or "every pointer file is what the journal says")


def _tell(session: Session, done: object) -> None:
    from governance.promotion import Promoted

    assert isinstance(done, Promoted)  # noqa: S101 (for the type checker)
    found = done.release
    verb = "now points at" if done.moved else "already points at"
    session.emit(
        {"release": found, "certificate": done.certificate.id, "moved": done.moved},
        [
            f"alias {found.alias} {verb} {done.certificate.name} (version {found.version[7:19]})",
            f"certificate {found.certificate[7:19]}, expires {done.certificate.body['expires'][:10]}",
        ],
    )
