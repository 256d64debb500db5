"""`hallmark policy`: check, test, scan, activate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from governance.cli.app import Session, command


@click.group()
def policy() -> None:
    """Check, test, try and activate inference policies."""


_FOLDER = click.argument("bundle", type=click.Path(path_type=Path))


@policy.command("check")
@_FOLDER
@command
def check(session: Session, bundle: Path) -> None:
    """Validate a bundle, and name rules that never decide, contradict or are not there. Exit 1 on a problem.

    A warning says that a rule is not tested, or says what another one says already.

    Example: hallmark policy check specs/policy
    """
    from policies.lint import lint

    found = lint(bundle)
    problems = [each for each in found if each.severity == "problem"]
    lines = [each.line() for each in found]
    session.emit({"findings": found, "problems": len(problems)}, [*lines, *([] if problems else [f"{bundle}: fine"])])
    session.exit(1 if problems else 0)


@policy.command("test")
@_FOLDER
@command
def test(session: Session, bundle: Path) -> None:
    """Run the tests beside the rules. Exit 1 when one fails.

    Example: hallmark policy test specs/policy
    """
    from policies import bundle as room

    outcomes = room.run_tests(bundle)
    lines = [f"{'ok  ' if each.passed else 'FAIL'} {each.name} {each.detail}".rstrip() for each in outcomes]
    session.emit(outcomes, lines or "no tests")
    session.exit(0 if all(each.passed for each in outcomes) else 1)


@policy.command("scan")
@_FOLDER
@click.option("--file", "path", required=True, type=click.Path(path_type=Path), help="JSONL of {id, text}.")
@click.option("--side", type=click.Choice(["input", "output"]), default="output", show_default=True)
@command
def scan(session: Session, bundle: Path, path: Path, side: str) -> None:
    """Scan texts offline: one JSON line each, with action and spans (offsets in code points).

    Example: hallmark policy scan specs/policy --file texts.jsonl --side output
    """
    from policies import bundle as room

    compiled = room.compile_bundle(room.load(bundle))
    for found in room.scan_texts(compiled, _records(path), side):
        click.echo(json.dumps(found, ensure_ascii=False))


@policy.command("activate")
@_FOLDER
@command
def activate(session: Session, bundle: Path) -> None:
    """Make a bundle the one that new candidates take. Nothing that is served changes: its certificate names its bundle.

    Example: hallmark policy activate specs/policy
    """
    from governance.candidates import activate_policy
    from policies import bundle as room
    from registry.errors import Refused

    problems = room.check(bundle) + [f"test `{t.name}`: {t.detail}" for t in room.run_tests(bundle) if not t.passed]
    if problems:
        raise Refused(f"bundle `{bundle}` is not fit to be activated: {problems[0]}", hint="run `hallmark policy test`")
    asset = activate_policy(session.ws, bundle, actor=session.actor("change-policy", str(bundle)))
    session.emit(asset, f"active for new candidates: bundle {asset.name}:{asset.number} {asset.id[7:19]}")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    from registry.errors import NotFound, SpecError

    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                value = json.loads(line)
            except ValueError:
                raise SpecError(
                    "not a JSON line", file=str(path), line=number, hint='{"id": "a", "text": "..."}'
                ) from None
            if not isinstance(value, dict):
                raise SpecError("not a JSON object", file=str(path), line=number, hint='{"id": "a", "text": "..."}')
            yield value
