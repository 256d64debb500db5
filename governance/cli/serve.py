"""`hallmark serve`: the policy-enforced endpoint."""

from __future__ import annotations

import click

from governance.cli.app import Session, command


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

    room.serve(
        ws, alias=alias, permit=permit, engine=engine or settings["engine"], host=host or settings["host"],
        port=int(settings.number("port")) if port is None else port, progress=session.progress, on_ready=ready,
    )  # fmt: skip
