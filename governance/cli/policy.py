"""`hallmark policy`: check, test, scan, targets, scenarios, diff, approve, activate."""

from __future__ import annotations

import json
import sys
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
    from policies.authoring.lint import lint

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
    from policies.authoring.cases import run_tests

    outcomes = run_tests(bundle)
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
    from contextlib import ExitStack

    from policies import bundle as room
    from policies.authoring import bulk
    from registry.errors import NotFound

    compiled = room.compile_bundle(room.load(bundle))
    with ExitStack() as stack:
        try:
            lines = stack.enter_context(bulk.lines_of(path))
        except OSError as error:
            raise NotFound(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None
        for found in bulk.scan_lines(compiled, lines, side, file=str(path)):
            sys.stdout.buffer.write(found + b"\n")


@policy.command("targets")
@_FOLDER
@command
def targets(session: Session, bundle: Path) -> None:
    """Show what each rule becomes: a constraint while decoding, a check, a reward term, test scenarios.

    Example: hallmark policy targets specs/policy
    """
    from policies import bundle as room
    from policies.authoring.targets import compile_targets

    found = compile_targets(room.load(bundle))
    width = max((len(each.rule) for each in found.rules), default=4)
    lines = [f"{'rule':<{width}}  {'kind':<11}  {'checked on':<13}  {'reward':<6}  {'scenarios':<9}  decoding"]
    for each in found.rules:
        sides, reward, made = ", ".join(each.check), _yes(each.reward), _yes(each.scenarios)
        lines.append(f"{each.rule:<{width}}  {each.kind:<11}  {sides:<13}  {reward:<6}  {made:<9}  {each.stage}")
    session.emit({"bundle": found.bundle.digest, "rules": found.rules}, lines)


@policy.command("scenarios")
@_FOLDER
@click.option("--per-rule", default=10, show_default=True, type=click.IntRange(1), help="Texts of each kind a rule.")
@click.option("--seed", default=0, show_default=True, help="The same seed makes the same texts.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSONL to write.")
@command
def scenarios(session: Session, bundle: Path, per_rule: int, seed: int, out: Path) -> None:
    """Write texts that each rule must act on, and texts that it must leave alone, made from the rules.

    A line holds rule, side, kind, form, text, action, prompt and seed. For synthetic data, and for suites.

    Example: hallmark policy scenarios specs/policy --per-rule 50 --seed 1 --out scenarios.jsonl
    """
    from policies import bundle as room
    from policies.authoring.scenarios import Scenarios, made_for
    from registry.artifacts import replace_file
    from registry.records import plain

    loaded = room.load(bundle)
    rows = [plain(row) for row in Scenarios.of(loaded).rows(per_rule, seed)]
    replace_file(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace"))
    skipped = {rule.id: why for rule in loaded.spec.rules if (why := made_for(rule))}
    kinds = [sum(row["kind"] == kind for row in rows) for kind in ("violating", "compliant")]
    said = {"out": str(out), "bundle": loaded.digest, "violating": kinds[0], "compliant": kinds[1], "skipped": skipped}
    lines = [f"{out}: {kinds[0]} violating, {kinds[1]} compliant"]
    session.emit(said, [*lines, *(f"  no texts for `{name}`: {why}" for name, why in skipped.items())])


@policy.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--file", "path", type=click.Path(path_type=Path), help="JSONL of {id, side, text, caller?, groups?}.")
@click.option("--alias", default="", help="Only what this endpoint recorded; default all.")
@click.option("--since", default="", metavar="TIME", help="Only from this time on (UTC, ISO 8601).")
@click.option("--until", default="", metavar="TIME", help="Only before this time.")
@click.option("--fail-on", type=click.Choice(["any", "block", "access"]), default="any", show_default=True,
              help="What makes the exit code 1: any change, texts stopped by one bundle alone, access.")  # fmt: skip
@click.option("--show-text", is_flag=True, help="Print the text of what changes; else only its place.")
@command
def diff(
    session: Session, first: str, second: str, path: Path | None, fail_on: str, show_text: bool, **window: str
) -> None:
    """Replay traffic through two bundles and show what would change; exit 1 when something does.

    A and B are folders, registered bundles, or `@alias` for what an alias serves. Traffic is what endpoints recorded
    (`record: texts`), or a file. Recorded answers are as they were released: what A removed is not in them.

    Example: hallmark policy diff @prod specs/policy --fail-on block
    """
    from governance import bundles
    from policies import bundle as room
    from policies.authoring import difference

    with bundles.opened(lambda: session.ws, first) as one, bundles.opened(lambda: session.ws, second) as two:
        sides = difference.Side(room.load(one)), difference.Side(room.load(two))
        if path is not None:
            traffic = difference.from_records(_records(path))
        else:
            from policies.endpoint.recording import recorded

            traffic = difference.from_recordings(recorded(session.ws, **window))
        found = difference.compare(*sides, traffic)
    changes = [each.plain(show_text=show_text) for each in found.changes]
    session.emit({"totals": found.totals, "changes": changes}, found.lines(show_text=show_text))
    session.exit(1 if found.counts(fail_on) else 0)


@policy.command("approve")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--reason", required=True, help="Why; it is signed with the approval.")
@command
def approve(session: Session, bundle: str, reason: str) -> None:
    """Sign an approval of a registered bundle that somebody else wrote: BUNDLE is its reference or its folder.

    Example: hallmark policy approve default:2 --reason "diff against prod read, tests cover the new rules"
    """
    from governance import bundles

    asset = bundles.find(session.ws, bundle)
    given = bundles.approve(session.ws, asset, reason=reason, actor=session.as_name)
    session.emit(given, f"approved bundle {asset.name}:{asset.number} {asset.id[7:19]} as {given.principal}")


@policy.command("activate")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--to", "alias", default="", metavar="ALIAS", help="Make it part of what this alias serves.")
@click.option("--suite", type=click.Path(path_type=Path), help="With --to: the suite that judges the change.")
@click.option("--dry-run", is_flag=True, help="With --to: say what would run, and stop.")
@command
def activate(session: Session, bundle: str, alias: str, suite: Path | None, dry_run: bool) -> None:
    """Make a bundle the one that new candidates take, or, with --to, part of what an alias serves.

    Its author cannot do it alone: without --to it waits for `policy approve` (exit 3). With --to the alias's candidate
    goes through the gate with this bundle (exit codes of `gate`), waits for `approve` (exit 3), and is promoted:
    certificate and bundle change together. Run it again to go on. What is served stays until then.

    Example: hallmark policy activate specs/policy --to prod --suite specs/suite.yaml
    """
    from governance import activation
    from registry.errors import SpecError

    if not alias:
        if suite or dry_run:
            raise SpecError("`--suite` and `--dry-run` go with `--to`", hint="name the alias with `--to`")
        asset = activation.make_default(session.ws, bundle, actor=session.as_name)
        session.emit(asset, f"active for new candidates: bundle {asset.name}:{asset.number} {asset.id[7:19]}")
        return
    if suite is None:
        raise SpecError("`--to` needs a suite that judges the change", hint="name its YAML file with `--suite`")
    if dry_run:
        planned = activation.plan(session.ws, bundle, alias, suite, actor=session.as_name)
        session.emit(planned, planned.lines())
        return
    found = activation.activate(
        session.ws, bundle, alias, suite, actor=session.as_name, passphrase=session.passphrase, announce=session.say,
        progress=session.progress,
    )  # fmt: skip
    lines = []
    if found.decision is not None and found.value is not None:
        from governance import gating

        lines = gating.render(session.ws, found.decision, found.value)
    session.emit(activation.described(found), [*lines, found.text])
    session.exit(found.exit_code)


def _yes(value: bool) -> str:
    return "yes" if value else "-"


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
