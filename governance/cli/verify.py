"""`hallmark verify`: is everything as recorded and signed."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.command()
@click.argument("target", required=False)
@click.option("--certificate", metavar="REF", default="",
              help="For a folder of weights: the certificate, version or alias its files must hash to.")  # fmt: skip
@click.option("--root", metavar="ID", help="For an evidence bundle: the workspace id; default: this workspace's.")
@click.option("--weights", type=click.Path(path_type=Path), help="For an evidence bundle: weights to hash.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For an evidence bundle: a checkpoint you kept.")
@click.option("--at", metavar="TIME", help="For an evidence bundle: judge expiry at this time (ISO 8601).")
@click.option("--print-verifier", is_flag=True, help="Print the stand-alone verifier, one Python file, and stop.")
@command
def verify(
    session: Session,
    target: str | None,
    certificate: str,
    root: str | None,
    weights: Path | None,
    checkpoint: Path | None,
    at: str | None,
    print_verifier: bool,
) -> None:
    """Verify an alias, a version, a dataset, a certificate, `log` or a folder: every byte, signature and link.

    A folder is an evidence bundle (checked from the workspace id alone, no workspace needed with --root) or weights.

    Example: hallmark verify prod
    """
    from registry.errors import SpecError

    if print_verifier:
        from importlib.resources import files

        click.echo(files("registry").joinpath("verifier.py").read_text(encoding="utf-8"), nl=False)
        return
    if not target:
        raise SpecError("nothing to verify was named", hint="e.g. `hallmark verify prod`, or a folder")
    from governance import verification

    if root or weights or checkpoint or at or _is_bundle(target, certificate):
        found = verification.verify_bundle(
            Path(target), root or session.ws.settings.workspace_id, weights=weights, checkpoint=checkpoint,
            at=verification.moment(at) if at else None,
        )  # fmt: skip
    else:
        found = verification.verify(session.ws, target, certificate=certificate)
    session.emit(found, found.lines())
    session.exit(found.exit_code)


def _is_bundle(target: str, certificate: str) -> bool:
    """Say whether a target is a folder that looks like an evidence bundle; paths with a slash are never names."""
    known = ("index.json", "events.jsonl", "certificate.json")
    return not certificate and any((Path(target) / name).is_file() for name in known)
