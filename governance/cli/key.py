"""`hallmark key`: principals of the platform, and callers of the endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.identity import Principal
    from registry.workspace import Workspace

PEM = click.Path(path_type=Path, exists=True, dir_okay=False)
CALLER_OPTIONS = (
    "groups", "attributes", "certificate", "requests_per_minute", "tokens_per_minute", "tokens_per_day",
    "concurrent_requests",
)  # fmt: skip


@click.group()
def key() -> None:
    """Principals, their keys, and callers of the endpoint."""


def _new_key(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where a new key comes from."""
    for option in (
        click.option("--new-passphrase-file", type=PEM, help="Encrypts the new key; `--passphrase-file` opens yours."),
        click.option("--public", "pem", type=PEM, metavar="FILE", help="PEM of a public key that was made elsewhere."),
        click.option("--type", "algorithm", type=click.Choice(["ed25519", "p256"]), default="ed25519",
                     show_default=True, help="Of a key that is made here."),
    ):  # fmt: skip
        function = option(function)
    return function


def _caller_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say what an endpoint caller is and may use."""
    number = click.FloatRange(min=0)
    for option in (
        click.option("--certificate", type=PEM, metavar="FILE",
                     help="With --caller: the key counts only over a connection with this client certificate (PEM)."),
        click.option("--concurrent", "concurrent_requests", type=number, help="With --caller: requests at once."),
        click.option("--tokens-per-day", type=number, help="With --caller: tokens in and out, a day."),
        click.option("--tokens-per-minute", type=number, help="With --caller: tokens in and out, a minute."),
        click.option("--requests-per-minute", type=number, help="With --caller: requests a minute."),
        click.option("--attribute", "attributes", multiple=True, metavar="NAME=VALUE",
                     help="With --caller: what access rules may ask of the caller; repeat a name for several values."),
        click.option("--group", "groups", multiple=True, help="With --caller: a group the access policy speaks of."),
    ):  # fmt: skip
        function = option(function)
    return function


@key.command("create")
@click.argument("name")
@click.option("--role", help="A platform role: viewer, trainer, evaluator, policy-author, approver, operator, ...")
@_new_key
@click.option("--caller", is_flag=True, help="Make an API key for the endpoint instead of a platform principal.")
@_caller_options
@command
def create(session: Session, name: str, role: str | None, caller: bool, **options: Any) -> None:
    """Create a principal with its own key, or an endpoint caller with its API key (shown once).

    The key is made here, or elsewhere (`--public FILE`), or is that of the program `[signers]` of hallmark.toml names.

    Examples: hallmark key create dana --role approver
              hallmark key create dana --role approver --public dana.pem
              hallmark key create billing-app --caller --group engineers --attribute purpose=billing
              hallmark key create batch --caller --group engineers --tokens-per-day 2000000 --concurrent 4
    """
    from governance import callers
    from governance.setup import add_key
    from registry.errors import SpecError

    operator = session.actor("manage-keys", name)
    of_caller = {option: options.pop(option) for option in CALLER_OPTIONS}
    if caller:
        groups, pairs, pem = (of_caller.pop(option) for option in ("groups", "attributes", "certificate"))
        attributes = callers.attributes_of(pairs, of_caller)
        certificate = pem.read_text(errors="replace") if pem else ""
        token = callers.create(session.ws, name, groups, attributes=attributes, certificate=certificate, actor=operator)
        made = {"name": name, "groups": list(groups), "attributes": attributes, "api_key": token}
        session.emit(made, token)
        session.say(f"note: this API key of `{name}` is shown once; the workspace keeps only its hash")
        return
    if not role:
        raise SpecError("a principal needs a role", hint="give `--role ROLE`, or `--caller` for an endpoint caller")
    if any(value is not None and value != () for value in of_caller.values()):
        raise SpecError("a principal has no groups, attributes or limits", hint="`--caller` makes an endpoint caller")
    keyid = add_key(session.ws, name, role, signer=operator, passphrase=session.passphrase, **_options(**options))
    session.emit({"name": name, "role": role, "keyid": keyid}, f"{name}  {role}  {keyid}")


@key.command("rotate")
@click.argument("name")
@_new_key
@command
def rotate(session: Session, name: str, **new: Any) -> None:
    """Give a principal a new key. What the old one signed keeps counting; nothing it signs from now on does.

    Examples: hallmark key rotate dana --type p256
              hallmark key rotate dana --public dana-2.pem
    """
    from governance.setup import rotate_key

    operator = session.actor("manage-keys", name)
    keyid = rotate_key(session.ws, name, signer=operator, passphrase=session.passphrase, **_options(**new))
    session.emit({"name": name, "keyid": keyid}, f"{name}  {keyid}")


@key.command("list")
@command
def list_keys(session: Session) -> None:
    """List principals with role, key, its state and where it is held, and endpoint callers with their groups.

    Example: hallmark key list
    """
    ws = session.ws
    callers = [{name: caller[name] for name in ("name", "groups", "attributes", "key_id")} for caller in ws.callers()]
    rows = [_row(ws, p) for p in ws.principals().values()]
    lines = [
        f"{r['name']:<16} {r['role']:<14} {r['keyid'][:16]}  {r['algorithm']:<8} {r['state']:<8} {r['held']}".rstrip()
        for r in rows
    ]
    lines += [
        f"{c['name']:<16} {'caller':<14} {c['key_id']:<16}  {','.join(c['groups'])}  {_told(c['attributes'])}".rstrip()
        for c in callers
    ]
    session.emit({"principals": rows, "callers": callers}, lines)


@key.command("show")
@click.argument("name")
@command
def show(session: Session, name: str) -> None:
    """Show a principal's key and the ones it replaced.

    Example: hallmark key show dana
    """
    rows = [_row(session.ws, p) for p in _keys_of(session.ws, name)]
    lines = []
    for row in rows:
        lines += [f"{field:<10} {row[field]}" for field in ("name", "role", "algorithm", "keyid", "public", "state")]
        lines += [f"{field:<10} {row[field]}" for field in ("retired", "held") if row[field]]
        lines.append("")
    session.emit(rows, lines[:-1])


@key.command("export")
@click.argument("name")
@command
def export(session: Session, name: str) -> None:
    """Print a principal's public key as PEM.

    Example: hallmark key export operator > operator.pem
    """
    from registry.signers import public_pem

    newest = _keys_of(session.ws, name)[-1]
    pem = public_pem(newest.public)
    session.emit({"name": name, "keyid": newest.keyid, "pem": pem}, pem.rstrip("\n"))


@key.command("revoke")
@click.argument("name")
@click.option("--reason", required=True, help="Kept in the journal, under the operator's signature.")
@command
def revoke(session: Session, name: str, reason: str) -> None:
    """Revoke a principal's key, a caller's API key, or a caller whom a token or a client certificate names.

    Examples: hallmark key revoke billing-app --reason "app retired"
              hallmark key revoke token:corp:ada --reason "left"
    """
    from governance import callers

    operator = session.actor("manage-keys", name)
    kind = callers.revoke(session.ws, name, reason=reason, actor=operator, passphrase=session.passphrase)
    session.emit({"name": name, "revoked": kind}, f"revoked {kind} {name}")


def _options(algorithm: str, pem: Path | None, new_passphrase_file: Path | None) -> dict[str, Any]:
    """Return what `add_key` and `rotate_key` take for a new key."""
    from registry.signers import public_from_pem

    return {
        "algorithm": algorithm,
        "public": public_from_pem(pem.read_bytes()) if pem else None,
        "new_passphrase": new_passphrase_file.read_bytes().rstrip(b"\n") if new_passphrase_file else None,
    }


def _told(attributes: dict[str, Any]) -> str:
    """Return a caller's attributes on one line."""
    shown = []
    for name, value in attributes.items():
        for each in value if isinstance(value, list) else [value]:
            shown.append(f"{name}={int(each) if isinstance(each, float) and each.is_integer() else each}")
    return " ".join(shown)


def _keys_of(ws: Workspace, name: str) -> list[Principal]:
    from registry.errors import UnknownName

    known = ws.principals().values()
    found = [p for p in known if p.name == name]
    if not found:
        raise UnknownName("principal", name, {p.name for p in known})
    return found


def _row(ws: Workspace, principal: Principal) -> dict[str, Any]:
    """Return a principal as `key list --json` shows it."""
    held = "external signer" if principal.name in ws.keys.commands else "here"
    if not ws.keys.holds(principal.name):
        held = "elsewhere"
    state = "revoked" if principal.revoked else "retired" if principal.retired else "active"
    return {
        "name": principal.name, "role": principal.role, "algorithm": principal.algorithm, "keyid": principal.keyid,
        "public": principal.public, "state": state, "revoked": principal.revoked, "retired": principal.retired,
        "held": held if principal.active else "", "held_here": principal.active and held == "here",
    }  # fmt: skip
