"""`hallmark suite`: hold-outs sealed for their evaluator, and suites screened against training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from governance.cli.app import Session, command

if TYPE_CHECKING:
    from evals.instrument import Instrument
    from registry.records import Asset


@click.group()
def suite() -> None:
    """Seal a suite's data for its evaluator; screen it against training data."""


@suite.command("key")
@command
def key(session: Session) -> None:
    """Make the sealing key of the acting evaluator: `keys/NAME.x25519`, its public half in the journal.

    Example: hallmark suite key --as evaluator
    """
    from registry import sealing

    actor = session.actor("evaluate", "sealing key")
    public = sealing.make_key(session.ws, actor, passphrase=session.passphrase)
    path = sealing.key_file(session.ws, actor)
    session.emit({"principal": actor, "public": public, "file": str(path)}, f"{actor}  {public}  {path}")


@suite.command("seal")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--for", "recipients", multiple=True, required=True, metavar="PRINCIPAL", help="Who may open it.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it; default FILE.sealed.")
@command
def seal(session: Session, file: Path, recipients: tuple[str, ...], out: Path | None) -> None:
    """Encrypt a data file to evaluators; name it in a KPI's `data`, then delete the clear file.

    Where every role's key lies under one operating-system account without a passphrase, this is a speed bump: who can
    read `keys/` can open the file.

    Example: hallmark suite seal data/tickets.jsonl --for evaluator
    """
    from registry import sealing
    from registry.artifacts import replace_file

    session.actor("evaluate", file.name)
    target = out or file.with_name(file.name + sealing.SUFFIX)
    data = sealing.seal(session.ws, file.read_bytes(), recipients)
    replace_file(target, data)
    session.emit(
        {"file": str(target), "recipients": list(recipients), "bytes": len(data)},
        [f"{target}  for {', '.join(recipients)}", f"write `data: {target.name}` in the suite, and delete `{file}`"],
    )


@suite.command("screen")
@click.argument("path", metavar="SUITE", type=click.Path(path_type=Path))
@click.option("--data", "datasets", multiple=True, metavar="DATASET", help="Screen these datasets' training splits.")
@click.option("--candidate", metavar="REF", help="Screen all that a candidate was trained on, its bases included.")
@click.option("--min-k", is_flag=True, help="Also ask the weights how familiar the samples are (advisory).")
@click.option("--fresh", metavar="PLACE", help="For --min-k: text nobody trained on; a file, or dataset:NAME#SPLIT.")
@command
def screen(
    session: Session, path: Path, datasets: tuple[str, ...], candidate: str | None, min_k: bool, fresh: str | None
) -> None:
    """Say which samples of a suite are in training data; exit 1 when some are.

    Example: hallmark suite screen specs/suite.yaml --candidate code
    """
    from evals import contamination
    from evals.evaluate import open_suite

    if not datasets and not candidate:
        raise click.UsageError("name `--data DATASET` or `--candidate REF`")
    if min_k and not (candidate and fresh):
        raise click.UsageError("`--min-k` needs `--candidate REF` and `--fresh PLACE`")
    actor = session.actor("evaluate", path.name)
    registered, instruments = open_suite(session.ws, path, actor)
    asset = _candidate(session, candidate) if candidate else None
    parts: list[Any] = [session.ws.resolve(ref, "dataset") for ref in datasets]
    notes = []
    if asset is not None:
        parts += contamination.datasets_of(session.ws, asset)
        notes = contamination.untold(session.ws, asset)
    found = contamination.screen(
        session.ws, parts, instruments, canaries=[registered.body["canary"]], progress=session.progress
    )
    notes += _unmarked(path, instruments, registered.body["canary"])
    report: dict[str, Any] = {"screening": found, "notes": notes, "clean": found.clean}
    lines = [*found.render_lines(), *(f"note: {note}" for note in notes)]
    if min_k and asset is not None and fresh:
        familiar = _familiarity(session, asset, instruments, fresh)
        report["familiarity"] = familiar
        lines += ["advisory:", *(f"  {each.render()}" for each in familiar)]
    session.emit(report, lines)
    session.exit(0 if found.clean else 1)


def _candidate(session: Session, ref: str) -> Asset:
    """Return a candidate, or the version where it has none yet: both have a lineage."""
    from governance import candidates
    from registry.errors import NotFound

    try:
        return candidates.existing_candidate(session.ws, ref)
    except NotFound:
        return session.ws.resolve(ref, "version")


def _unmarked(path: Path, instruments: list[Instrument], canary: str) -> list[str]:
    """Return a sentence where files of the suite do not hold its canary."""
    from evals.contamination import unmarked

    missing = unmarked(canary, path, instruments)
    if not missing:
        return []
    names = ", ".join(f"`{name}`" for name in missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
    return [f"the canary is not in {names}: curation cannot know a copy of it by its mark"]


def _familiarity(session: Session, asset: Asset, instruments: list[Instrument], fresh: str) -> list[Any]:
    from evals.min_k import screen_familiarity
    from registry.records import Candidate

    record = session.ws.get(asset.id, Candidate)
    return screen_familiarity(session.ws, record, instruments, _fresh(session, fresh), progress=session.progress)


def _fresh(session: Session, place: str) -> list[str]:
    """Return texts of a dataset's split, of a JSONL file's `text` or `input`, or a text file's paragraphs."""
    import json

    from evals.contamination import read_split
    from registry.errors import SpecError

    if place.startswith("dataset:"):
        name, _, split = place.removeprefix("dataset:").partition("#")
        return [t for texts, _ in read_split(session.ws, session.ws.resolve(name, "dataset"), split) for t in texts]
    text = Path(place).read_text(encoding="utf-8")
    if not place.endswith(".jsonl"):
        return [part for part in text.split("\n\n") if part.strip()]
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [str(row.get("text") or row["input"]) for row in rows]
    except (ValueError, KeyError, AttributeError) as error:
        raise SpecError(f"no `text` or `input` in a line: {error}", file=place, hint="one JSON object a line") from None
