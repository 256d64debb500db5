"""`hallmark version`: model folders in and out, and what is registered."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def version() -> None:
    """Import and export model folders; list and show versions."""


@version.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What the version is called.")
@click.option("--base", metavar="VERSION", help="What it was made from; an adapter must name the version it changes.")
@click.option("--licence", default="", metavar="TEXT", help="SPDX id or text; kept in the journal.")
@click.option("--source", default="", metavar="TEXT", help="Where it came from; kept in the journal.")
@click.option("--dry-run", is_flag=True, help="Check the folder and stop.")
@command
def import_version(
    session: Session, folder: Path, name: str, base: str | None, licence: str, source: str, dry_run: bool
) -> None:
    """Register a plain Hugging Face folder: safetensors only, no pickles, no code.

    Example: hallmark version import models/mistral-7b --name mistral --licence Apache-2.0
    """
    from governance import imports

    if dry_run:
        found = imports.check(folder)
        figures = {"architecture": found.architecture, "parameters": found.parameters, "files": sorted(found.elements)}
        session.emit(figures, f"{folder}: fine ({found.parameters:,} parameters)")
        return
    asset = imports.import_folder(
        session.ws, folder, name=name, base=base, licence=licence, source=source, actor=session.as_name
    )
    session.emit(asset, f"{asset.kind} {asset.name}:{asset.number}  {asset.id[7:19]}")


@version.command("export")
@click.argument("ref", metavar="VERSION")
@click.option("--to", "dest", required=True, type=click.Path(path_type=Path), help="The new folder.")
@command
def export_version(session: Session, ref: str, dest: Path) -> None:
    """Copy the verified files of a version or adapter into a new folder; importing it gives the same digests.

    Example: hallmark version export code:3 --to out/code
    """
    from governance import imports

    asset = imports.export(session.ws, ref, dest, actor=session.as_name)
    session.emit({"id": asset.id, "manifest": asset.body["manifest"], "folder": str(dest)}, str(dest))


@version.command("withdraw")
@click.argument("ref", metavar="VERSION")
@click.option("--reason", required=True, help="Why; kept in the journal.")
@command
def withdraw(session: Session, ref: str, reason: str) -> None:
    """Take the bytes of a version and of its candidates back: never served or promoted again; hashes stay.

    Refused while an alias points at it or a legal hold covers it. `hallmark store collect` frees the space.

    Example: hallmark version withdraw code:3 --reason "trained on withdrawn data"
    """
    from governance import retention

    gone = retention.delete(session.ws, ref, reason=reason, actor=session.as_name)
    session.emit({"withdrawn": gone}, [f"withdrawn  {ident[7:19]}" for ident in gone])


@version.command("list")
@command
def list_versions(session: Session) -> None:
    """List versions and adapters, oldest first.

    Example: hallmark version list
    """
    from registry.withdrawals import tombstones

    assets = [*session.ws.assets("version"), *session.ws.assets("adapter")]
    gone = tombstones(session.ws)
    lines = []
    for asset in assets:
        size = f"{asset.body['parameters']:,} parameters" if asset.kind == "version" else asset.body["method"]
        mark = "  withdrawn" if asset.id in gone else ""
        lines.append(f"{asset.id[7:19]}  {asset.kind:<7}  {asset.name}:{asset.number}  {size}{mark}")
    session.emit(assets, lines)


@version.command("show")
@click.argument("ref", metavar="REF")
@command
def show(session: Session, ref: str) -> None:
    """Show a version or adapter: what it is, what it was made from, its files.

    Example: hallmark version show code@prod
    """
    from governance import imports
    from registry.withdrawals import tombstones

    asset = imports.find(session.ws, ref)
    gone = tombstones(session.ws).get(asset.id)
    lines = [
        f"{asset.kind} {asset.name}:{asset.number}  {asset.id}",
        f"  owner         {asset.owner}, {asset.created[:19]}",
    ]
    if gone:
        lines.append(f"  withdrawn     {gone.reason}")
    lines += [f"  {key:<13} {asset.body[key]}" for key in ("architecture", "parameters", "method", "rank", "manifest")
              if key in asset.body]  # fmt: skip
    lines += [f"  made from     {relation} {parent[7:19]}" for relation, parent in asset.parents]
    lines += [f"  weights       {name}  {digest}" for name, digest in sorted(asset.body["weights"].items())]
    session.emit({**_plain(asset), "withdrawn": gone.reason if gone else ""}, lines)


def _plain(asset: object) -> dict[str, object]:
    from registry.records import plain

    return dict(plain(asset))
