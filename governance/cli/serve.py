"""`hallmark serve`: the policy-enforced endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from policies.audit import Mode


@click.command()
@click.argument("alias", required=False)
@click.option("--permit", help="Serve one uncertified candidate for its evaluation: loopback, expiring, no alias.")
@click.option("--engine", help="auto (what the candidate names), transformers or vllm; default from settings.")
@click.option("--host", help="Address to bind; default from settings (127.0.0.1).")
@click.option("--port", type=int, help="Port; 0 picks a free one; default from settings (8000).")
@click.option("--dry-run", is_flag=True, help="Verify certificate and bytes, then stop.")
@command
def serve(
    session: Session,
    alias: str | None,
    permit: str | None,
    engine: str,
    host: str | None,
    port: int | None,
    dry_run: bool,
) -> None:
    """Serve what an alias points at, under the policy its certificate names. Refuses anything uncertified with 1.

    Example: hallmark serve prod --port 8000
    """
    from governance.verification import verify
    from policies import serve as room
    from policies.assembly import Plan
    from registry.errors import SpecError, Tampered

    if bool(alias) == bool(permit):
        raise SpecError("name either an alias or a permit", hint="hallmark serve prod")
    ws = session.ws
    session.actor("serve" if alias else "evaluate", alias or str(permit))
    if dry_run and alias:
        found = verify(ws, alias)
        if found.problems:
            raise Tampered(found.problems[0], hint=f"run `hallmark verify {alias}`")
        session.emit(found, found.lines())
        return
    settings = ws.settings

    def ready(url: str) -> None:
        session.emit({"url": url, "alias": alias, "permit": permit}, f"serving {alias or permit} at {url}")

    plan = Plan(
        alias, permit, engine or settings["engine"], host or settings["host"],
        int(settings.number("port")) if port is None else port, log_mode(settings["decision_log"]),
    )  # fmt: skip
    room.run(ws, plan, session.progress, ready)


def log_mode(name: str) -> Mode:
    """Return the decision log's mode of a setting's value. Raises SpecError."""
    from registry.errors import SpecError

    if name == "strict":
        return "strict"
    if name == "group":
        return "group"
    raise SpecError(f"unknown mode `{name}`", field="decision_log", hint="`group` or `strict`")
