"""The whole walk on one page: data, training, candidate, gate, approval, promotion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from governance import approvals, candidates, gating, promotion, roles
from registry import specs
from registry.protocols import Progress, silent
from registry.records import Asset
from registry.specs import Spec
from registry.workspace import Workspace


class PipelineSpec(Spec):
    """What to walk through. Paths are relative to the spec's file."""

    pipeline: str = Field(min_length=1)
    data: tuple[str, ...] = Field(default=(), description="data specs, built in this order")
    train: tuple[str, ...] = Field(min_length=1, description="recipes, run in this order; the last one is judged")
    policy: str = Field(default="", description="a policy bundle's folder; empty: the active one")
    engine: str = "transformers"
    suite: str = Field(min_length=1, description="the suite that judges the last version trained")
    baseline: str = Field(default="", description="alias or version to compare with; empty: the suite's own")
    promote_to: str = Field(default="", description="alias to promote to after approval; empty: stop at the verdict")


@dataclass(frozen=True, slots=True)
class Step:
    """One finished hop of the walk."""

    name: str
    text: str
    asset: Asset | None
    exit_code: int = 0


def walk(ws: Workspace, path: Path, *, passphrase: bytes | None = None, progress: Progress = silent) -> Iterator[Step]:
    """Yield each hop as it finishes; finished ones are found by digest and not done again.

    The last step carries the exit code: the gate's (0 PASS, 1 FAIL, 2 INVALID, 3 INCONCLUSIVE), or 3 where the
    approval is still missing. Each hop acts as the principal that `hallmark.toml` names for its role.

    Raises as the hops do.
    """
    spec = specs.load(path, PipelineSpec)
    promotion.settle(ws)
    folder = path.parent
    trainer = roles.acting(ws, "train")
    from training import data, train

    for name in spec.data:
        built = data.build(ws, folder / name, actor=roles.require(ws, "build-data", name).name, progress=progress)
        yield Step("data", f"dataset {built.name}:{built.number} {built.id[7:19]}", built)
    for name in spec.train:
        roles.require(ws, "train", name, trainer)
        version = train(ws, folder / name, actor=trainer, resume=True, progress=progress).version
        yield Step("train", f"version {version.name}:{version.number} {version.id[7:19]}", version)
    policy = str(folder / spec.policy) if spec.policy else None
    candidate = candidates.create(ws, version.id, policy=policy, engine=spec.engine, actor=trainer)
    yield Step("candidate", f"candidate {candidate.id[7:19]}", candidate)
    suite, evaluator = folder / spec.suite, roles.acting(ws, "evaluate")
    known = gating.replay(ws, candidate, suite, actor=evaluator)
    decision, value = known or gating.run(
        ws, candidate, suite, baseline=spec.baseline or None, passphrase=passphrase, progress=progress
    )
    lines = gating.render(ws, decision, value)
    if known and value.exit_code == 0:
        lines = [lines[0], f"  judged {decision.created[:19]}; `hallmark gate show {decision.id[7:19]}` says why"]
    yield Step("gate", "\n".join(lines), decision, value.exit_code)
    if value.exit_code == 0 and spec.promote_to:
        yield _promote(ws, candidate, decision, spec.promote_to, passphrase)


def check(ws: Workspace, path: Path) -> list[str]:
    """Return the names of the spec files, each loaded and found well. Raises SpecError, NotFound."""
    from evals.suite import SuiteSpec
    from policies.bundle import load as load_bundle
    from training.data.spec import DataSpec
    from training.recipe import Recipe

    spec = specs.load(path, PipelineSpec)
    folder = path.parent
    for name in spec.data:
        specs.load(folder / name, DataSpec)
    for name in spec.train:
        specs.load(folder / name, Recipe)
    specs.load(folder / spec.suite, SuiteSpec)
    if spec.policy:
        load_bundle(folder / spec.policy)
    return [path.name, *spec.data, *spec.train, spec.suite, *([spec.policy] if spec.policy else [])]


def _promote(ws: Workspace, candidate: Asset, decision: Asset, alias: str, passphrase: bytes | None) -> Step:
    earlier = ws.store.query(
        "SELECT ts FROM alias_history WHERE alias = ? AND candidate = ? ORDER BY seq", [alias, candidate.id]
    )
    if earlier and ws.release(alias).candidate != candidate.id:
        text = f"alias {alias} pointed at this candidate from {earlier[0]['ts'][:19]} and has moved on since"
        return Step("promote", text, candidate)
    quorum = int(ws.settings.number("approvals"))
    given = approvals.valid(ws, candidate, decision)
    if len(given) < quorum:
        cure = f"an approver runs `hallmark approve {candidate.name} --reason ...`"
        text = f"awaiting approval: {len(given)} of {quorum}\n{cure}"
        return Step("approval", text, None, 3)
    done = promotion.promote(ws, candidate, alias, reason="pipeline", passphrase=passphrase)
    return Step("promote", f"alias {alias} points at certificate {done.certificate.id[7:19]}", done.certificate)
