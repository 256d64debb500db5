"""`hallmark train`: run a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from governance.cli.app import Session, command


@click.group()
def train() -> None:
    """Train a model version from a recipe."""


@train.command("run")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--resume/--restart", default=True, help="Continue from the last checkpoint of this recipe (default).")
@click.option("--dry-run", is_flag=True, help="Check the recipe and stop.")
@command
def run(session: Session, recipe: Path, resume: bool, dry_run: bool) -> None:
    """Train; the same recipe, data and base that already finished are not trained again.

    Example: hallmark train run specs/good.yaml
    """
    from registry.specs import load
    from training import train as start
    from training.recipe import Recipe

    checked = load(recipe, Recipe)
    actor = session.actor("train", checked.name)
    if dry_run:
        session.emit({"name": checked.name, "digest": checked.digest}, f"{recipe}: fine ({checked.digest[:19]})")
        return
    result = start(session.ws, recipe, actor=actor, resume=resume, progress=session.progress)
    version, ran = result.version, result.run
    figures = ", ".join(f"{name} {value:.4g}" for name, value in ran.body["metrics"].items())
    session.emit(
        {"run": ran, "version": version},
        [
            f"run      {ran.id[7:19]}  {ran.body['method']}, {ran.body['steps']} steps, {ran.body['tokens']} tokens",
            f"version  {version.name}:{version.number}  {version.id[7:19]}  {version.body['parameters']:,} parameters",
            f"  {figures}",
            *_mask(ran.body["environment"].get("loss_mask", [])),
        ],
    )


def _mask(rows: list[dict[str, str]]) -> list[str]:
    """Return lines that show, for a sample row, where the loss falls: the trained span in brackets."""
    lines = []
    for row in rows[:1]:
        before, _, after = row["row"].partition(row["trained"])
        shown = f"{before}>>>{row['trained']}<<<{after}".replace("\n", "\\n")
        lines = ["  the loss falls on what stands between >>> and <<<, for example", f"    {shown}"]
    return lines
