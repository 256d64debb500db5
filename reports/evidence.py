"""The evidence bundle: one plain JSON document that is the report; HTML, Markdown and the rest are renderings of it.

Every statement and every row carries the event hash, asset id or digest it rests on. The same workspace at the same
event gives the same bytes; signing them is governance's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.records import plain
from registry.workspace import Workspace
from reports import compliance, statements
from reports.facts import Filed, Story
from reports.views import Views

FORMAT = "hallmark.evidence/1"


def build(ws: Workspace, version_ref: str, upto: int | None = None) -> dict[str, Any]:
    """Return the evidence bundle of a model version, as of event `upto` (default: the last one).

    Raises:
        NotFound: no such version, or it is newer than `upto`.
    """
    return bundle(tell(ws, version_ref, upto))


def tell(ws: Workspace, version_ref: str, upto: int | None = None) -> Story:
    """Return everything the views know about a version."""
    views = Views(ws, upto)
    version = views.version(version_ref)
    lineage = views.lineage(version.id)
    candidates = views.candidates(version.id)
    ids = [candidate.id for candidate in candidates]
    decisions = views.decisions_on(ids)
    runs: dict[str, Filed] = {run.id: run for run in views.eval_runs(ids)}
    runs |= views.by_id(r for d in decisions for r in d.eval_runs)
    certificates, moves = views.certificates(ids), views.moves(version.id)
    aliases = sorted({move.alias for move in moves})
    subjects = [node.id for node in lineage.nodes] + ids + list(runs)
    subjects += [decision.id for decision in decisions] + [certificate.id for certificate in certificates]
    return Story(
        workspace=ws.settings.workspace_id,
        as_of=views.as_of,
        version=version,
        lineage=lineage,
        candidates=candidates,
        suites=tuple(views.by_id(d.suite for d in decisions).values()),
        eval_runs=tuple(sorted(runs.values(), key=lambda run: (run.created, run.id))),
        decisions=decisions,
        refusals=views.refusals(views.line_of(version, lineage)),
        approvals=views.approvals(ids),
        certificates=certificates,
        moves=moves,
        bundles=views.bundles(candidates),
        files={weights: views.files(weights) for weights in {c.body["weights"] for c in candidates}},
        traffic=views.traffic(ids),
        coverage=views.coverage(ids, [certificate.id for certificate in certificates]),
        drift=views.drift(aliases, ids),
        roles=views.roles(),
        steps=views.steps(subjects, aliases),
    )


def bundle(story: Story) -> dict[str, Any]:
    """Return a story as the evidence bundle: sections, statements in words, and the control tables."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "workspace": story.workspace,
        "as_of": plain(story.as_of),
        "subject": {"id": story.version.id, "label": story.version.label},
        "version": _row(story.version),
        "lineage": {"nodes": _rows(story.lineage.nodes), "edges": plain(story.lineage.edges)},
        "candidates": [{**row, "files": story.files[row["body"]["weights"]]} for row in _rows(story.candidates)],
        "suites": _rows(story.suites),
        "eval_runs": _rows(story.eval_runs),
        "bundles": plain(story.bundles),
        "drift": _rows(story.drift),
    }
    for name in (
        "decisions",
        "refusals",
        "approvals",
        "certificates",
        "moves",
        "traffic",
        "coverage",
        "roles",
        "steps",
    ):
        document[name] = plain(getattr(story, name))
    document["headline"] = statements.headline(document)
    document["statements"] = statements.write(document)
    document["compliance"] = compliance.assess(document)
    document["verify"] = statements.commands(document)
    return document


def _rows(filed: Sequence[Filed]) -> list[dict[str, Any]]:
    return [_row(item) for item in filed]


def _row(filed: Filed) -> dict[str, Any]:
    return {**plain(filed), "label": filed.label}
