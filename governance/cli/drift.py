"""`hallmark drift`: compare windows of the decision log, replay canaries, follow re-certifications."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from evals.drift.canaries import Canary
    from registry.records import DriftWindow

EXIT = {"quiet": 0, "drift": 1, "too_little_data": 3}
FILE = click.Path(path_type=Path)


@click.group()
def drift() -> None:
    """Compare windows of the decision log, and what the served model answers to fixed prompts."""


@drift.command("check")
@click.argument("alias")
@click.option("--since", help="Start of the current window, UTC ISO 8601; default: the newer half of the log.")
@click.option("--reference-since", help="Start of the reference window; default: the start of the log.")
@click.option("--cumulative", is_flag=True, help="Bound the false alarms of all such checks of a certificate together.")
@click.option("--canaries", metavar="FILE", help="Prompts to ask, one JSON object a line; `built-in` has some.")
@click.option("--endpoint", metavar="URL", help="Where canaries are asked, e.g. http://127.0.0.1:8000/v1.")
@click.option("--key-file", type=FILE, help="Holds the key of the caller who asks the canaries.")
@click.option("--repeats", default=3, show_default=True, help="How often each canary is asked.")
@click.option("--expire", type=float, metavar="DAYS", help="Revoke what drifted so long ago and was not re-certified.")
@click.option("--html", type=FILE, help="Also write evidently's report there.")
@click.option("--dry-run", is_flag=True, help="Say what the canaries cost; ask nothing, record nothing.")
@command
def check(session: Session, alias: str, dry_run: bool, **options: Any) -> None:
    """Judge drift of what an alias serves: exit 0 quiet, 1 drift, 3 too little data. Made for cron.

    A drift opens a re-certification (`hallmark drift list`). A canary file has lines such as
    {"id": "greeting", "messages": [{"role": "user", "content": "hello"}]} or {"id": "code", "prompt": "def add("}.

    Examples: hallmark drift check prod --html drift.html
              hallmark drift check prod --cumulative --canaries asked.jsonl --endpoint $URL --key-file cron.key
    """
    import evals.drift.check as room
    from governance import recertification

    actor = session.actor("check-drift", alias)
    session.ws.release(alias)
    asked = _canaries(session, alias, options)
    if dry_run:
        _say_cost(session, asked, options["repeats"])
        return
    closed = recertification.settle(session.ws, alias, actor=actor)
    window = room.check(
        session.ws,
        alias,
        windows=room.Windows(options["since"], options["reference_since"], options["cumulative"]),
        replays=_replay(session, alias, asked, actor, options),
        actor=actor,
        html=options["html"],
        progress=session.progress,
    )
    opened = recertification.open_for(session.ws, window, actor=actor)
    revoked = _expire(session, alias, options["expire"])
    lines = [f"{window.verdict}  alias {alias}", *(f"  {row}" for row in room.describe(window))]
    lines += [f"  report {options['html']}"] if window.html else []
    lines += [f"  {row}" for row in recertification.lines([*closed, *([opened] if opened else [])])]
    lines += [f"  revoked {certificate[7:19]}: not re-certified in time" for certificate in revoked]
    session.emit(_data(window, opened, revoked), lines)
    session.exit(EXIT[window.verdict])


@drift.command("list")
@click.argument("alias", default="")
@click.option("--all", "every", is_flag=True, help="Closed ones too.")
@command
def list_recertifications(session: Session, alias: str, every: bool) -> None:
    """List the re-certifications that drift has opened.

    Example: hallmark drift list prod
    """
    from governance import recertification

    found = [item for item in recertification.recertifications(session.ws, alias) if every or not item.closed]
    session.emit(found, recertification.lines(found))


@drift.command("reevaluate")
@click.argument("alias")
@click.option("--suite", required=True, type=FILE, help="A suite with samples that have not judged it yet.")
@command
def reevaluate(session: Session, alias: str, suite: Path) -> None:
    """Put what an alias serves through the gate again; exit codes as of `gate run`. Made for cron.

    Example: hallmark drift reevaluate prod --suite specs/suite-2026w48.yaml
    """
    from governance import gating, recertification

    decision, value = recertification.reevaluate(
        session.ws, alias, suite, actor=session.as_name, passphrase=session.passphrase, progress=session.progress
    )
    session.emit(decision, [*gating.render(session.ws, decision, value), f"decision {decision.id[7:19]}"])
    session.exit(value.exit_code)


def _canaries(session: Session, alias: str, options: dict[str, Any]) -> list[Canary]:
    """Return the canaries to ask; none without `--canaries`. Raises SpecError when endpoint or key is missing."""
    from evals.drift.canaries import read_canaries
    from registry.errors import SpecError

    if options["canaries"] is None:
        return []
    if not (options["endpoint"] and options["key_file"]):
        raise SpecError("canaries need an endpoint to ask", hint="give `--endpoint URL` and `--key-file FILE`")
    template = session.ws.resolve(session.ws.release(alias).candidate, "candidate").body["template"]
    named = options["canaries"]
    return read_canaries(None if named == "built-in" else Path(named), chat=bool(template))


def _replay(session: Session, alias: str, asked: list[Canary], actor: str, options: dict[str, Any]) -> Any:
    from evals.drift.canaries import replay
    from registry.errors import NotFound

    if not asked:
        return None
    file: Path = options["key_file"]
    try:
        key = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise NotFound(f"no file `{file}`", hint="`hallmark key create NAME --caller` makes a caller's key") from None
    return replay(
        session.ws, alias, asked, url=options["endpoint"], key=key, actor=actor, repeats=options["repeats"],
        progress=session.progress,
    )  # fmt: skip


def _say_cost(session: Session, asked: list[Canary], repeats: int) -> None:
    cost = {
        "canaries": len(asked),
        "requests": len(asked) * repeats,
        "most_tokens": repeats * sum(canary.max_tokens for canary in asked),
    }
    session.emit(cost, f"would ask {cost['requests']} requests of at most {cost['most_tokens']} tokens in all")


def _expire(session: Session, alias: str, days: float | None) -> list[str]:
    """Revoke what has lapsed, as an operator; return the certificates."""
    from governance import promotion, recertification

    items = recertification.lapsed(session.ws, alias, days) if days is not None else []
    for item in items:
        reason = f"drift {item.window[7:19]} of {item.opened[:19]} was not re-certified within {days:g} days"
        promotion.revoke(session.ws, item.certificate, reason=reason)
    return [item.certificate for item in items]


def _data(window: DriftWindow, opened: Any, revoked: list[str]) -> dict[str, Any]:
    from registry.records import plain

    more = {"recertification": plain(opened) if opened else None, "revoked": revoked}
    return {**plain(window), **more}
