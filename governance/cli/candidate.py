"""`hallmark candidate`: create, show, diff."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def candidate() -> None:
    """The complete configuration that would serve."""


@candidate.command("create")
@click.argument("version")
@click.option("--policy", metavar="BUNDLE", help="A policy bundle: folder or reference; default the active one.")
@click.option("--template", type=click.Path(path_type=Path), help="A chat template; default the version's own.")
@click.option("--system-prompt", type=click.Path(path_type=Path), help="A system prompt; default none.")
@click.option(
    "--engine", default="transformers", help="transformers or vllm; vllm:fp8 and vllm:mxfp8 quantise on loading."
)
@click.option("--adapter", metavar="REF", help="An adapter made for this version; default none.")
@command
def create(
    session: Session, version: str, policy: str | None, template: Path | None, system_prompt: Path | None, engine: str,
    adapter: str | None,
) -> None:  # fmt: skip
    """Name every part that would serve; what is evaluated, gated and certified is this.

    Example: hallmark candidate create code:2 --policy specs/policy
    """
    from governance import candidates

    actor = session.actor("create-candidate", version)
    asset = candidates.create(
        session.ws, version, policy=policy, template=template, system_prompt=system_prompt, engine=engine,
        adapter=adapter, actor=actor,
    )  # fmt: skip
    session.emit(asset, f"candidate {asset.id[7:19]}  {asset.name}:{asset.number}")


@candidate.command("show")
@click.argument("ref", metavar="ID")
@command
def show(session: Session, ref: str) -> None:
    """Show a candidate's parts.

    Example: hallmark candidate show code
    """
    asset = session.ws.resolve(ref, "candidate")
    session.emit(asset, [f"candidate {asset.id}", *[f"  {name:<15} {value}" for name, value in asset.body.items()]])


@candidate.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@command
def diff(session: Session, first: str, second: str) -> None:
    """Say in which parts two candidates differ; exit 1 when they do.

    Example: hallmark candidate diff code:1 code:2
    """
    from governance import candidates

    one, two = session.ws.resolve(first, "candidate"), session.ws.resolve(second, "candidate")
    names = candidates.difference(session.ws, one.id, two.id)
    parts = {name: [one.body.get(name, "none"), two.body.get(name, "none")] for name in names}
    session.emit(parts, [f"{name:<15} {a} -> {b}" for name, (a, b) in parts.items()] or "the same candidate")
    session.exit(1 if parts else 0)
