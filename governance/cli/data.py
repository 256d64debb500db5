"""`hallmark data`: build, list, show, verify, withdraw."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def data() -> None:
    """Build, list, show, verify and withdraw datasets."""


@data.command("build")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check the spec and stop.")
@command
def build(session: Session, spec: Path, dry_run: bool) -> None:
    """Build a curated dataset; the same spec and sources give the same dataset.

    Example: hallmark data build specs/data.yaml
    """
    from registry.specs import load
    from training import data as room
    from training.data.spec import DataSpec

    checked = load(spec, DataSpec)
    actor = session.actor("build-data", checked.name)
    if dry_run:
        session.emit({"name": checked.name, "digest": checked.digest}, f"{spec}: fine ({checked.digest[:19]})")
        return
    asset = room.build(session.ws, spec, actor=actor, progress=session.progress)
    session.emit(asset, _lines(asset.id, asset.name, asset.number, asset.body))


@data.command("list")
@command
def list_datasets(session: Session) -> None:
    """List datasets.

    Example: hallmark data list
    """
    from registry.withdrawals import tombstones

    assets = session.ws.assets("dataset")
    gone = tombstones(session.ws)
    lines = [f"{a.id[7:19]}  {a.name}:{a.number}  {sum(a.body['splits'].values())} rows"
             + ("  withdrawn" if a.id in gone else "") for a in assets]  # fmt: skip
    session.emit(assets, lines)


@data.command("show")
@click.argument("ref", metavar="ID")
@command
def show(session: Session, ref: str) -> None:
    """Show a dataset: splits, sources with licences, what was dropped and why.

    Example: hallmark data show stdlib
    """
    asset = session.ws.resolve(ref, "dataset")
    session.emit(asset, _lines(asset.id, asset.name, asset.number, asset.body))


@data.command("verify")
@click.argument("ref", metavar="ID")
@command
def verify(session: Session, ref: str) -> None:
    """Hash every stored byte of a dataset; exit 1 and name the file that differs.

    Example: hallmark data verify stdlib
    """
    asset = session.ws.resolve(ref, "dataset")
    problems = session.ws.artifacts.verify(asset.body["manifest"])
    session.emit({"id": asset.id, "problems": problems}, problems or f"{asset.name}:{asset.number} is as recorded")
    session.exit(1 if problems else 0)


@data.command("withdraw")
@click.argument("source", metavar="SOURCE", default="")
@click.option(
    "--person", metavar="TEXT", default="", help="Withdraw the rows that hold this text; only a digest is kept."
)
@click.option("--reason", required=True, help="Why; kept in the journal.")
@click.option("--delete", is_flag=True, help="Take the datasets' bytes back too; hashes stay.")
@click.option("--dry-run", is_flag=True, help="Say what is touched; record nothing.")
@command
def withdraw(session: Session, source: str, person: str, reason: str, delete: bool, dry_run: bool) -> None:
    """Withdraw a source, a file, a dataset or a person's rows: what it touched, and what must be made again.

    SOURCE is a source's name, path or digest, a file's path inside a source, or a dataset.

    Example: hallmark data withdraw wiki --reason "licence ended" --dry-run
    """
    from governance import retention

    if bool(source) == bool(person):
        raise click.UsageError("name a SOURCE or `--person TEXT`, and not both")
    if dry_run:
        session.actor("withdraw-data", source or "person")
        found = retention.survey(session.ws, source, person=person)
    else:
        found = retention.withdraw(
            session.ws, source, person=person, reason=reason, delete=delete, actor=session.as_name
        )
    lines = ["would withdraw" if dry_run else "withdrawn"]
    lines += [f"  rows       {row['rows']:>6}  {row['split']}  {row['source']}/{row['path']}" for row in found.rows]
    lines += [f"  touches    {item['label']}" for item in found.assets]
    lines += [f"  serves     {alias}" for alias in found.aliases]
    lines += [f"  deleted    {ident[7:19]}" for ident in found.deleted]
    lines += [f"  to do {number:>2}   {step}" for number, step in enumerate(found.plan, start=1)]
    session.emit(found, lines)


def _lines(ident: str, name: str, number: int, body: dict[str, object]) -> list[str]:
    lines = [f"dataset {name}:{number}  {ident[7:19]}"]
    splits, drops, quarantined, sources = (body[key] for key in ("splits", "drops", "quarantined", "sources"))
    assert isinstance(splits, dict) and isinstance(drops, dict)  # noqa: S101, PT018 (a record's own types)
    assert isinstance(quarantined, list) and isinstance(sources, list)  # noqa: S101, PT018
    lines += [f"  source       {s.get('name') or s.get('path', '')}  {s.get('licence', '')}" for s in sources]
    lines += [f"  split        {split:<18} {count:>7} rows" for split, count in splits.items()]
    lines += [f"  dropped      {reason:<18} {count:>7}" for reason, count in drops.items()]
    lines.append(f"  quarantined  {len(quarantined)} files")
    lines += [f"    {item.get('path')}: {item.get('reason')}" for item in quarantined[:5]]
    return lines
