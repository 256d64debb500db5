"""`hallmark key`: principals of the platform, and callers of the endpoint."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


@click.group()
def key() -> None:
    """Principals, their keys, and callers of the endpoint."""


@key.command("create")
@click.argument("name")
@click.option("--role", help="A platform role: viewer, trainer, evaluator, policy-author, approver, operator, ...")
@click.option("--caller", is_flag=True, help="Make an API key for the endpoint instead of a platform principal.")
@click.option("--group", "groups", multiple=True, help="With --caller: a group the access policy speaks of.")
@click.option("--requests-per-minute", type=click.FloatRange(min=1), help="With --caller: the caller's rate limit.")
@command
def create(
    session: Session, name: str, role: str | None, caller: bool, groups: tuple[str, ...],
    requests_per_minute: float | None,
) -> None:  # fmt: skip
    """Create a principal with its own key, or an endpoint caller with its API key (shown once).

    Examples: hallmark key create dana --role approver
              hallmark key create billing-app --caller --group engineers
    """
    from governance import callers
    from governance.setup import add_key
    from registry.errors import SpecError

    operator = session.actor("manage-keys", name)
    if caller:
        token = callers.create(session.ws, name, groups, rate=requests_per_minute, actor=operator)
        session.emit({"name": name, "groups": list(groups), "api_key": token}, token)
        session.say(f"note: this API key of `{name}` is shown once; the workspace keeps only its hash")
        return
    if not role:
        raise SpecError("a principal needs a role", hint="give `--role ROLE`, or `--caller` for an endpoint caller")
    keyid = add_key(session.ws, name, role, signer=operator, passphrase=session.passphrase)
    session.emit({"name": name, "role": role, "keyid": keyid}, f"{name}  {role}  {keyid}")


@key.command("list")
@command
def list_keys(session: Session) -> None:
    """List principals with role and key, and endpoint callers with their groups.

    Example: hallmark key list
    """
    from registry.records import plain

    ws = session.ws
    held = set(ws.keys.names())
    principals = list(ws.principals().values())
    callers = [{name: caller[name] for name in ("name", "groups", "key_id")} for caller in ws.callers()]
    lines = [f"{p.name:<16} {p.role:<14} {p.keyid[:16]}  {'revoked' if p.revoked else ''}" for p in principals]
    lines += [f"{c['name']:<16} {'caller':<14} {c['key_id']:<16}  {','.join(c['groups'])}" for c in callers]
    rows = [{**plain(p), "held_here": p.name in held} for p in principals]
    session.emit({"principals": rows, "callers": callers}, lines)


@key.command("revoke")
@click.argument("name")
@click.option("--reason", required=True, help="Kept in the journal.")
@command
def revoke(session: Session, name: str, reason: str) -> None:
    """Revoke a principal's key, or a caller's API key.

    Example: hallmark key revoke billing-app --reason "app retired"
    """
    from governance import callers

    operator = session.actor("manage-keys", name)
    kind = callers.revoke(session.ws, name, reason=reason, actor=operator)
    session.emit({"name": name, "revoked": kind}, f"revoked {kind} {name}")
