"""`hallmark serve`: the policy-enforced endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from policies.endpoint.audit import Mode
    from policies.serving.plan import Plan
    from registry.settings import Settings


@click.command()
@click.argument("alias", required=False)
@click.option("--also", multiple=True, metavar="ALIAS", help="A further release, under its own name; may be repeated.")
@click.option("--permit", help="Serve one uncertified candidate for its evaluation: loopback, expiring, no alias.")
@click.option("--engine", help="auto (what the candidate names), transformers, vllm or unsafe_unverified.")
@click.option("--host", help="Address to bind; default from settings (127.0.0.1).")
@click.option("--port", type=int, help="Port; 0 picks a free one; default from settings (8000).")
@click.option("--dry-run", is_flag=True, help="Verify certificate and bytes, then stop.")
@click.option("--print-unit", is_flag=True, help="Print a systemd unit that serves this, and stop.")
@command
def serve(
    session: Session,
    alias: str | None,
    *,
    dry_run: bool,
    print_unit: bool,
    also: tuple[str, ...],
    **where: str | int | None,
) -> None:
    """Serve what an alias points at, under the policy its certificate names. Refuses anything uncertified with 1.

    Example: hallmark serve prod --port 8000
    """
    from policies import serve as room
    from policies.serving.operations import configure_logging
    from registry.errors import SpecError

    permit = where["permit"]
    if bool(alias) == bool(permit):
        raise SpecError("name either an alias or a permit", hint="hallmark serve prod")
    ws = session.ws
    session.actor("serve" if alias else "evaluate", alias or str(permit))
    if dry_run and alias:
        _dry_run(session, [alias, *also])
        return
    plan = plan_of(ws.settings, alias, also, **where)
    if print_unit:
        from policies.serving.unit import unit_name, unit_text

        text = unit_text(ws.root, plan)
        session.emit({"name": unit_name(plan), "unit": text}, text)
        return

    def ready(url: str) -> None:
        served = ", ".join(target.name for target in plan.targets)
        session.emit({"url": url, "alias": alias, "also": also, "permit": permit}, f"serving {served} at {url}")

    if plan.operations:
        configure_logging(ws.settings)
    room.run(ws, plan, session.progress, ready)


def _dry_run(session: Session, aliases: list[str]) -> None:
    """Verify certificates and bytes; raises Tampered."""
    from governance.verification import verify
    from registry.errors import Tampered

    for alias in aliases:
        found = verify(session.ws, alias)
        if found.problems:
            raise Tampered(found.problems[0], hint=f"run `hallmark verify {alias}`")
        session.emit(found, found.lines())


def plan_of(settings: Settings, alias: str | None, also: tuple[str, ...] = (), **where: str | int | None) -> Plan:
    """Return what the command line and the settings ask to serve. Raises SpecError naming what is wrong."""
    from policies.endpoint.desk import Bounds
    from policies.serving.bounds import bounds_of
    from policies.serving.plan import UNVERIFIED, Plan, Remote, check_plan, upkeep_of

    permit, port = where.get("permit"), where.get("port")
    engine = str(where.get("engine") or settings["engine"])
    url = settings["unsafe_unverified_engine"] if engine == UNVERIFIED else ""
    plan = Plan(
        alias,
        None if permit is None else str(permit),
        engine,
        str(where.get("host") or settings["host"]),
        int(settings.number("port")) if port is None else int(port),
        log_mode(settings["decision_log"]),
        also=also,
        upkeep=upkeep_of(settings),
        remote=Remote(url, settings["unsafe_unverified_key_env"], settings["unsafe_unverified_model"]) if url else None,
        operations=permit is None,
        bounds=bounds_of(settings) if permit is None else Bounds(),
    )
    check_plan(plan)
    return plan


def log_mode(name: str) -> Mode:
    """Return the decision log's mode of a setting's value. Raises SpecError."""
    from registry.errors import SpecError

    if name == "strict":
        return "strict"
    if name == "group":
        return "group"
    raise SpecError(f"unknown mode `{name}`", field="decision_log", hint="`group` or `strict`")
