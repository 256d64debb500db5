"""`hallmark replay`: decide a past request of the endpoint again; `hallmark recording`: the texts that were kept."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("receipt")
@click.option(
    "--request", "file", type=click.Path(path_type=Path), help="The request's JSON body, where no text was recorded."
)
@click.option("--dry-run", is_flag=True, help="Show the decision and what would be compared; start nothing.")
@command
def replay(session: Session, receipt: str, file: Path | None, dry_run: bool) -> None:
    """Decide a past request again, on the same weights under the same policy. Exit 1 when something came out otherwise.

    The receipt stands in the answer's `x-hallmark-receipt` header. What is compared depends on the determinism class:
    a refusal is exact, a greedy or seeded answer repeats its tokens, a sampled one only what came before them.

    Example: hallmark replay hr-0123456789a00000001 --request asked.json
    """
    from policies.serving import replay as room

    session.actor("serve", receipt)
    if dry_run:
        then = room.decision_of(session.ws, receipt)
        kind = room.determinism_of(then)
        lines = [f"{name}: {then[name]}" for name in SHOWN]
        session.emit(then | {"class": kind}, [*lines, f"determinism: {kind} ({room.CLASSES[kind]})"])
        return
    found = room.replay(session.ws, receipt, request=file, progress=session.progress)
    lines = [f"{receipt}: {'the same' if not found.differences else 'not the same'}"]
    lines += [f"  {line}" for line in found.differences]
    lines += [f"compared: {', '.join(found.compared)}", f"determinism: {found.determinism} ({found.promise})"]
    session.emit(found, [*lines, *found.notes])
    session.exit(found.exit_code)


SHOWN = ("ts", "endpoint", "principal", "model", "action", "status", "rules", "certificate", "candidate", "bundle",
         "input_hash", "output_hash", "finish_reason")  # fmt: skip
"""Fields of a decision that `--dry-run` shows."""


@click.group()
def recording() -> None:
    """Texts of requests and answers, kept where a policy says `record: texts`."""


@recording.command("list")
@click.option("--endpoint", default="", help="Only what was asked of this alias.")
@click.option("--since", default="", help="UTC, ISO 8601.")
@click.option("--until", default="", help="UTC, ISO 8601.")
@click.option("--show-text", is_flag=True, help="Also the texts.")
@command
def list_recorded(session: Session, endpoint: str, since: str, until: str, show_text: bool) -> None:
    """List what was kept; texts only with `--show-text`. Exit 1 when a text is not the one its decision was made of.

    Example: hallmark recording list --endpoint prod --since 2026-01-01
    """
    from dataclasses import asdict

    from policies.endpoint import recording as room

    session.actor("read", endpoint or "recordings")
    found = list(room.recorded(session.ws, alias=endpoint, since=since, until=until))
    hidden = () if show_text else ("body", "inputs", "outputs")
    rows = [{name: value for name, value in asdict(entry).items() if name not in hidden} for entry in found]
    lines = []
    for entry in found:
        state = "" if entry.intact else "  CHANGED since it was recorded"
        lines.append(f"{entry.ts} {entry.request_id} {entry.caller} {entry.surface} {entry.action}{state}")
        if show_text:
            lines += [f"    > {text}" for text in entry.inputs]
            lines += [f"    < {channel}: {text}" for channel, text in entry.outputs]
    session.emit(rows, lines or "nothing is recorded")
    session.exit(0 if all(entry.intact for entry in found) else 1)


@recording.command("erase")
@click.option("--caller", default="", help="What this caller asked and was answered.")
@click.option("--receipt", default="", help="One request.")
@click.option("--before", default="", help="Everything before a time (UTC, ISO 8601).")
@click.option("--reason", required=True, help="Why; it is recorded.")
@command
def erase(session: Session, caller: str, receipt: str, before: str, reason: str) -> None:
    """Delete kept texts. The decisions stay: their hashes are keyed and do not tell the text.

    Example: hallmark recording erase --caller billing-app --reason "asked to be forgotten"
    """
    from policies.endpoint import recording as room
    from registry.errors import SpecError

    if not (caller or receipt or before):
        raise SpecError("name what to erase", hint="`--caller`, `--receipt` or `--before`")
    actor = session.actor("withdraw-data", caller or receipt or before)
    count = room.erase(session.ws, caller=caller, request_id=receipt, before=before)
    body = {"caller": caller, "receipt": receipt, "before": before, "reason": reason, "erased": count}
    session.ws.record("recording.erased", caller or receipt or before, body, actor=actor)
    session.emit(body, f"{count} recorded requests erased")
