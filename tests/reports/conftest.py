"""A small real workspace with two candidates of one line: the first refused, the second certified and serving."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.attestation import APPROVAL_TYPE, CERTIFICATE_PREDICATE, STATEMENT, STATEMENT_TYPE
from registry.identity import public_hex, sign_envelope
from registry.records import (
    Asset,
    Candidate,
    Certificate,
    Dataset,
    DriftWindow,
    EvalRun,
    GateDecision,
    ModelVersion,
    PolicyBundle,
    Release,
    Run,
    Suite,
    canonical,
    plain,
    sha256,
)
from registry.workspace import Workspace
from reports import evidence

HOSTILE = "<script>alert('x')</script>|`*_[a](http://evil.example)\n# \"&\x07"
EXPIRES = "2099-01-01T00:00:00+00:00"

CEDAR = """\
@id("engineers-may-ask")
permit (principal in Group::"engineers", action == Action::"infer", resource);
// interns are denied by name
@id("interns-denied")
forbid (principal in Group::"interns", action == Action::"infer", resource);
"""
RULES = """\
rules:
  - id: aws-key
    kind: regex
    type: secret
    side: output
    action: redact
    pattern: AKIA[0-9A-Z]{16}
    description: access keys of a cloud account
  - id: weapons
    kind: topic
    side: input
    keywords: [detonator, nerve agent]
"""


def kpi(
    name: str, rule: str, line: float | None, verdict: str, numbers: tuple[float | None, ...], **more: Any
) -> dict[str, Any]:
    """Return one KPI row as `evals.decision.KpiVerdict` writes it."""
    estimate, lower, upper = numbers
    return {
        "kpi": name, "rule": rule, "verdict": verdict, "gating": rule != "advisory", "estimate": estimate, "unit": "",
        "lower": lower, "upper": upper, "level": 0.05, "bound": "clustered t", "n": 400, "clusters": 80, "owner": "",
        "against": "baseline" if rule == "noninferior" else "", "scale": "absolute", "threshold": line,
        "candidate": None, "baseline": None, "p_pass": None, "p_fail": None, "discordant": 51, "clipped": 0,
        "samples_needed": None, "control": "null_model", "control_verdict": "FAIL", "reasons": [], "worst": [], **more,
    }  # fmt: skip


def worst() -> list[dict[str, Any]]:
    """Return three worst items."""
    return [{"sample_id": f"{i:032x}", "candidate": 0.0, "baseline": 1.0, "difference": -1.0} for i in range(3)]


PASSING = [
    kpi("next_line", "noninferior", -0.02, "PASS", (0.085, 0.041, 0.129), worst=worst(), candidate=0.685, baseline=0.6),
    kpi("domain_bpb", "noninferior", -0.02, "PASS", (0.31, 0.27, 0.35), unit="bits per byte", scale="ratio",
        candidate=1.71, baseline=2.48, owner="platform"),
    kpi("general_bpb", "noninferior", -0.02, "PASS", (-0.004, -0.0128, 0.0049), unit="bits per byte",
        candidate=2.214, baseline=2.21),
    kpi("general_bpb", "noninferior", -0.05, "PASS", (-0.006, -0.0138, 0.0039), against="anchor"),
    kpi("policy_violations", "max_rate", 0.05, "PASS", (0.0, 0.0, 0.0247), bound="exact", candidate=0.0,
        control="planted_violator", n=120, clusters=120),
    kpi("length", "advisory", None, "ADVISORY", (-0.2, -0.3, -0.1), control="", control_verdict=""),
]  # fmt: skip
FAILING = [
    kpi("next_line", "noninferior", -0.02, "FAIL", (-0.21, -0.26, -0.16), worst=worst(), candidate=0.39, baseline=0.6,
        reasons=["worse than the baseline by 0.21, interval [-0.26, -0.16]; 0.02 is allowed"]),
    kpi("domain_bpb", "noninferior", -0.02, "FAIL", (-0.9, -1.01, -0.79), unit="bits per byte"),
    kpi("general_bpb", "noninferior", -0.02, "INCONCLUSIVE", (-0.012, -0.041, 0.017), samples_needed=1840),
    kpi("policy_violations", "max_rate", 0.05, "PASS", (0.0, 0.0, 0.0247), bound="exact", control="planted_violator"),
]  # fmt: skip


@dataclass(frozen=True)
class World:
    """The workspace and the ids the tests ask about."""

    ws: Workspace
    bad: Asset
    good: Asset
    base: Asset
    refused: Asset
    passed: Asset
    certificate: Asset


def results(ws: Workspace) -> str:
    """Store a tiny Parquet file of sample rows; return its digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"sample_id": ["a", "b"], "kpi": ["next_line"] * 2, "epoch": [0, 0], "value": [1.0, 0.0],
            "weight": [1.0, 1.0], "cluster": ["a", "b"], "error": ["", ""], "detail": ["{}", "{}"]}  # fmt: skip
    table = pa.table(rows).cast(pa.schema([
        ("sample_id", pa.string()), ("kpi", pa.string()), ("epoch", pa.int32()), ("value", pa.float64()),
        ("weight", pa.float64()), ("cluster", pa.string()), ("error", pa.string()), ("detail", pa.string()),
    ]))  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return ws.artifacts.add_bytes(sink.getvalue(), "application/vnd.apache.parquet")


def folder(ws: Workspace, name: str, files: dict[str, str]) -> str:
    """Store a folder of text files; return its manifest id."""
    root = ws.work(name)
    for path, text in files.items():
        (root / path).write_text(text, encoding="utf-8")
    return ws.artifacts.add_tree(root).id


class Maker:
    """Registers the parts of the world, one call a part."""

    def __init__(self, root: Path, dirt: str = "") -> None:
        self.ws, self.dirt = Workspace.create(root), dirt
        for name, role in (("tina", "trainer"), ("eva", "evaluator"), ("ada", "approver")):
            self.ws.add_principal(name, role, public_hex(self.ws.keys.create(name)), signer="operator")
        self.bundle = folder(self.ws, "bundle", {"access.cedar": CEDAR, "rules.yaml": RULES + self._dirty_rule()})
        record = PolicyBundle("default", 1, self.bundle)
        self.policy = self.ws.register(record, actor="operator", name="default")
        self.suite = self.ws.register(
            Suite("code-kpis" + dirt, 3, self.bundle, {"next_line": sha256(b"i1")}, "canary-" + "0" * 16),
            actor="eva", name="code-kpis" + dirt,
        )  # fmt: skip

    def _dirty_rule(self) -> str:
        return f"  - {{id: {canonical(self.dirt).decode()}, type: term, action: redact}}\n" if self.dirt else ""

    def dataset(self, name: str, salt: str) -> Asset:
        """Register a dataset with counted drops and a quarantined file."""
        source = {
            "name": f"python-stdlib{self.dirt}",
            "licence": "PSF-2.0",
            "version": "3.11.9",
            "digest": sha256(salt.encode()),
        }
        record = Dataset(
            name + self.dirt, sha256(b"spec" + salt.encode()), sha256(b"rows" + salt.encode()), self.bundle,
            {"train": 4200, "heldout": 310}, [source],
            {"exact_duplicate": 120, "near_duplicate": 75, "contaminated": 4},
            [{"file": f"broken{self.dirt}.py", "reason": "not UTF-8"}],
        )  # fmt: skip
        return self.ws.register(record, actor="tina", name=name + self.dirt)

    def version(self, name: str, dataset: Asset, base: Asset | None, salt: str) -> Asset:
        """Register a training run and the model version it made."""
        environment = {"python": "3.11.9", "torch": "2.13.0+cpu"}
        record = Run("pretrain", sha256(salt.encode()), {"steps": 120, "lr": 0.02, "note": self.dirt}, [dataset.id],
                     base.id if base else None, sha256(b"state" + salt.encode()), 120, 983_040,
                     {"loss": 1.73}, environment)  # fmt: skip
        run = self.ws.register(record, actor="tina", parents=[("dataset", dataset.id)])
        files = {"model.safetensors": salt * 40, "tokenizer.json": "{}", "config.json": "{}"}
        manifest = folder(self.ws, f"model-{salt}", files)
        digests = {
            e.path: e.sha256 for e in self.ws.artifacts.manifest(manifest).entries if e.path.endswith(".safetensors")
        }
        model = ModelVersion(
            name, manifest, run.id, base.id if base else None, [dataset.id], "LlamaForCausalLM", 1_572_864, digests
        )
        parents = [("run", run.id), ("dataset", dataset.id)] + ([("base", base.id)] if base else [])
        return self.ws.register(model, actor="tina", name=name, parents=parents)

    def candidate(self, version: Asset) -> Asset:
        """Register the complete configuration around a version."""
        record = Candidate(
            version.id, version.body["manifest"], sha256(b"tok"), sha256(b"tpl"), "none" + self.dirt,
            {"max_new_tokens": 64}, "transformers", "5.19.0", "none", self.bundle,
        )  # fmt: skip
        return self.ws.register(
            record, actor="operator", name=version.name, parents=[("version", version.id), ("bundle", self.policy.id)]
        )

    def decide(self, candidate: Asset, baseline: Asset | None, verdict: str, rows: list[dict[str, Any]]) -> Asset:
        """Register an evaluation run and the decision on it."""
        done = {"next_line": 400}
        run = EvalRun(candidate.id, self.suite.id, {"next_line": sha256(b"i1")}, results(self.ws), done, done,
                      {"next_line": 0},
                      {"next_line": "weights", "policy_violations": "guarded"}, {"next_line": "lm-eval"})  # fmt: skip
        evaluated = self.ws.register(run, actor="eva", parents=[("candidate", candidate.id), ("suite", self.suite.id)])
        rows = [
            {**row, "kpi": row["kpi"] + self.dirt, "reasons": [r + self.dirt for r in row["reasons"]]} for row in rows
        ]
        record = GateDecision(
            candidate.id, baseline.id if baseline else None, self.suite.id, verdict, baseline is None, "fixed", 0.05,
            [evaluated.id], ["weights"], {"verdict": verdict, "reasons": [], "kpis": rows},
        )  # fmt: skip
        return self.ws.register(record, actor="eva", parents=[("candidate", candidate.id), ("eval_run", evaluated.id)])

    def approve(self, candidate: Asset, decision: Asset) -> dict[str, Any]:
        """Record a signed approval; return its envelope."""
        claim = {"candidate": candidate.id, "decision": decision.id, "reason": "reads well"}
        envelope = sign_envelope(APPROVAL_TYPE, canonical(claim), self.ws.keys.load("ada"))
        body = {"candidate": candidate.id, "decision": decision.id, "keyid": envelope["signatures"][0]["keyid"],
                "reason": "reads well" + self.dirt, "envelope": envelope}  # fmt: skip
        self.ws.record("approval.given", candidate.id, body, actor="ada")
        return envelope

    def certify(self, candidate: Asset, decision: Asset, approval: dict[str, Any]) -> Asset:
        """Register a certificate that `registry.attestation` accepts."""
        record = self.ws.get(candidate.id, Candidate)
        entries = [("weights", record.weights), ("bundle", record.bundle)]
        subject = [
            {"name": f"{prefix}/{e.path}", "digest": {"sha256": e.sha256.removeprefix("sha256:")}}
            for prefix, manifest in entries for e in self.ws.artifacts.manifest(manifest).entries
        ]  # fmt: skip
        predicate = {
            "candidate": plain(record), "candidateDigest": candidate.id, "decision": decision.id, "verdict": "PASS",
            "suite": self.suite.id, "approvals": [approval], "quorum": 1, "expires": EXPIRES, "note": self.dirt,
            "results": [{"evalRun": run} for run in decision.body["eval_runs"]],
        }  # fmt: skip
        statement = {
            "_type": STATEMENT,
            "predicateType": CERTIFICATE_PREDICATE,
            "subject": subject,
            "predicate": predicate,
        }
        envelope = sign_envelope(STATEMENT_TYPE, canonical(statement), self.ws.keys.load("operator"))
        certificate = Certificate(candidate.id, record.version, decision.id, EXPIRES, envelope)
        return self.ws.register(
            certificate, actor="operator", parents=[("candidate", candidate.id), ("decision", decision.id)]
        )

    def point(self, alias: str, certificate: Asset, reason: str) -> None:
        """Move an alias."""
        body = certificate.body
        release = Release(
            alias, certificate.id, body["candidate"], body["version"], "2026-01-01T00:00:00+00:00", reason
        )
        self.ws.record(
            "alias.moved", alias,
            {"certificate": certificate.id, "candidate": body["candidate"], "version": body["version"],
             "reason": reason + self.dirt, "release": release.id}, actor="operator",
        )  # fmt: skip
        self.ws.point(release)

    def traffic(self, candidate: Asset, certificate: Asset) -> None:
        """Log twelve requests, one of them announced and never answered."""
        cases = [("allow", [])] * 8 + [("redact", ["aws-key" + self.dirt])] * 2 + [("deny", ["interns-denied"])]
        for index, (action, rules) in enumerate(cases):
            body = {"endpoint": "prod", "principal": f"p{index % 3}", "candidate": candidate.id, "action": action,
                    "rules": rules, "prompt_tokens": 20, "completion_tokens": 40,
                    "latency_ms": 10.0 + index}  # fmt: skip
            self.ws.record("gateway.decision", f"req-{index}", body, actor="endpoint:prod")
        self.ws.record("gateway.intent", "req-lost", {"certificate": certificate.id}, actor="endpoint:prod")


def make(root: Path, dirt: str = "") -> World:
    """Build the world under a folder; `dirt` is put into every free text."""
    maker = Maker(root, dirt)
    ws = maker.ws
    base = maker.version("anchor", maker.dataset("general", "general"), None, "base")
    base_candidate = maker.candidate(base)
    first = maker.decide(base_candidate, None, "PASS", PASSING[4:5])
    base_certificate = maker.certify(base_candidate, first, maker.approve(base_candidate, first))
    maker.point("prod", base_certificate, "bootstrap")
    bad = maker.version("code-model", maker.dataset("stdlib-corrupted", "bad"), base, "bad")
    refused = maker.decide(maker.candidate(bad), base_candidate, "FAIL", FAILING)
    good = maker.version("code-model", maker.dataset("stdlib", "good"), base, "good")
    candidate = maker.candidate(good)
    passed = maker.decide(candidate, base_candidate, "PASS", PASSING)
    certificate = maker.certify(candidate, passed, maker.approve(candidate, passed))
    maker.point("prod", certificate, "better on code, no worse on general text")
    maker.traffic(candidate, certificate)
    figures = {
        "reference": 0.02,
        "current": 0.21,
        "e_value": 310.0,
        "e_threshold": 80.0,
        "since": "2026-01-01T00:00:00",
    }
    signals = [
        {"name": "refusals", "verdict": "quiet", "meaning": "share of refused requests", **figures, "e_value": 1.2},
        {"name": "output_chars" + dirt, "verdict": "drift", "meaning": "length of answers", **figures},
    ]
    sides = [{"n": n, "candidates": [candidate.id]} for n in (200, 150)]
    window = DriftWindow("prod", "drift", sides[0], sides[1], signals)
    ws.register(window, actor="operator", parents=[("certificate", certificate.id)])
    return World(ws, bad, good, base, refused, passed, certificate)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The ordinary world."""
    return make(tmp_path_factory.mktemp("world") / "ws")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same world with hostile text in every free field."""
    return make(tmp_path_factory.mktemp("hostile") / "ws", HOSTILE)


@pytest.fixture(scope="session")
def doc(world: World) -> dict[str, Any]:
    """The evidence bundle of the version that serves."""
    return evidence.build(world.ws, "code-model:2")


@pytest.fixture(scope="session")
def dirty_doc(hostile: World) -> dict[str, Any]:
    """The same bundle with hostile text in every free field."""
    return evidence.build(hostile.ws, "code-model:2")
