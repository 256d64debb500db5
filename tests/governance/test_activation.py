"""Activation of a policy: never by its author alone; for an alias through the gate, certificate and bundle at once."""

import json
import random
import shutil
from pathlib import Path

import pytest

from evals.harness import HARNESSES
from governance import activation, approvals, bundles, candidates, promotion
from governance.setup import add_key, default_bundle
from registry.attestation import verify_release
from registry.errors import NotFound, NotYet, Refused
from registry.records import ModelVersion, Run
from tests.stubs import scripted_harness

TEXTS = [f"question number {number}" for number in range(300)]
SUITE = """
suite: scripted
version: 1
canary: scripted-canary-0123456789
gate: {alpha: 0.05, looks: 2}
kpis:
  - id: right
    harness: scripted
    task: right or wrong
    data: cases.jsonl
    samples: 300
    direction: higher
    range: [0, 1]
    control: null_model
    rule: {type: noninferior, margin: 0.1}
"""


@pytest.fixture
def policy(tmp_path):
    """Write a small bundle under a version."""

    def write(version=1, term="nightjar"):
        target = tmp_path / "policy"
        target.mkdir(exist_ok=True)
        for name in ("access.cedar", "access.cedarschema"):
            shutil.copy(default_bundle() / name, target / name)
        rule = f"{{id: bird, kind: terms, side: both, type: bird, terms: [{term}]}}"
        (target / "bundle.yaml").write_text(f"name: house\nversion: {version}\nrules:\n  - {rule}\n")
        return str(target)

    return write


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.setitem(HARNESSES._table, "scripted", "tests.stubs.scripted_harness:Scripted")
    scripted_harness.ASKED.clear()
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def served(ws, model, judge):
    """A release of alias `prod`, whose model gets 250 of 300 questions right."""
    (model / "right.json").write_text(json.dumps(sorted(random.Random(1).sample(TEXTS, 250))))
    manifest = ws.artifacts.add_tree(model)
    run = ws.register(Run("pretrain", "sha256:r", {"n": 1}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    record = ModelVersion("code", manifest.id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name="code", parents=[("run", run.id)])
    candidate = candidates.create(ws, version.id, actor="trainer")
    judge(candidate)
    approvals.approve(ws, candidate, reason="first")
    promotion.promote(ws, candidate, "prod")
    return candidate


def test_the_default_waits_for_an_approver_who_did_not_write_it(ws, policy):
    before = bundles.activated(ws)
    with pytest.raises(NotYet, match=r"bundle `house:1` awaits approval: 0 of 1"):
        activation.make_default(ws, policy())
    assert bundles.activated(ws).id == before.id
    bundle = bundles.find(ws, "house:1")
    for wrong in ("policy-author", "operator", "trainer"):
        with pytest.raises(Refused, match="may not approve"):
            bundles.approve(ws, bundle, reason="mine", actor=wrong)
    with pytest.raises(Refused, match="needs a reason"):
        bundles.approve(ws, bundle, reason=" ")
    given = bundles.approve(ws, bundle, reason="tests read")
    assert given.principal == "approver"
    assert activation.make_default(ws, policy()).id == bundle.id
    assert bundles.activated(ws).id == bundle.id
    assert candidates._bundle(ws, None, "trainer").id == bundle.id


def test_an_approval_is_of_the_files_that_were_approved(ws, policy):
    with pytest.raises(NotYet):
        activation.make_default(ws, policy())
    bundles.approve(ws, bundles.find(ws, policy()), reason="read")
    with pytest.raises(Refused, match=r"`house` version 1 is another bundle"):
        activation.make_default(ws, policy(term="heron"))
    with pytest.raises(NotYet, match="house:3"):
        activation.make_default(ws, policy(version=2, term="heron"))
    with pytest.raises(NotFound, match="as it is now, is not registered"):
        bundles.find(ws, policy(version=3, term="crane"))


def test_a_draft_may_be_written_again_under_its_number(ws, policy):
    for term in ("heron", "crane"):
        with pytest.raises(NotYet):
            activation.make_default(ws, policy(term=term))


def test_whoever_wrote_a_bundle_does_not_approve_it_in_another_role(ws, policy):
    asset = bundles.register(ws, Path(policy()), actor="approver")
    with pytest.raises(Refused, match="no-one-approves-what-they-trained"):
        bundles.approve(ws, asset, reason="mine")
    ws.record(bundles.APPROVED, asset.id, {"manifest": asset.body["manifest"], "reason": "x"}, actor="approver")
    assert bundles.approvals_of(ws, asset) == []  # the event is there and sealed, and does not count
    add_key(ws, "dana", "approver", signer="operator")
    bundles.approve(ws, asset, reason="read", actor="dana")
    assert [each.principal for each in bundles.approvals_of(ws, asset)] == ["dana"]


def test_an_activation_without_approvals_does_not_count(ws, policy):
    asset = bundles.register(ws, Path(policy()), actor="policy-author")
    body = {"manifest": asset.body["manifest"], "approved_by": ["approver"]}
    ws.record(bundles.ACTIVATED, asset.id, body, actor="policy-author")
    with pytest.raises(Refused, match="was activated without approval, by `policy-author`"):
        bundles.activated(ws)
    bundles.approve(ws, asset, reason="late")
    with pytest.raises(Refused, match="without approval"):
        bundles.activated(ws)
    activation.make_default(ws, policy())
    assert bundles.activated(ws).id == asset.id


def test_what_is_not_fit_is_not_registered(ws, policy):
    folder = Path(policy())
    text = (folder / "bundle.yaml").read_text()
    (folder / "bundle.yaml").write_text(
        text + "  - {id: two, kind: terms, side: both, type: b, action: mask, terms: [nightjar]}\n"
    )
    with pytest.raises(Refused, match="is not fit to be activated: problem: .*contradict"):
        activation.make_default(ws, str(folder))
    (folder / "bundle.yaml").write_text(text)
    (folder / "tests.yaml").write_text("texts:\n  - {name: a, text: nightjar, action: pass}\n")
    with pytest.raises(Refused, match="test `a`: action is `redact`"):
        activation.make_default(ws, str(folder))
    assert len(ws.assets("bundle")) == 1


def test_an_alias_gets_certificate_and_bundle_in_one_move(ws, policy, served, suite):
    old = verify_release(ws, "prod")
    told = []
    found = activation.activate(ws, policy(), "prod", suite, announce=told.append)
    assert (found.exit_code, found.value.verdict, found.certificate) == (3, "PASS", None)
    assert "awaiting approval: 0 of 1" in found.text
    assert candidates.difference(ws, served.id, found.candidate.id) == ["bundle"]
    assert verify_release(ws, "prod").release == old.release
    asked = list(scripted_harness.ASKED)
    approvals.approve(ws, found.candidate, reason="read")
    done = activation.activate(ws, policy(), "prod", suite)
    assert (done.exit_code, done.candidate.id, done.decision.id) == (0, found.candidate.id, found.decision.id)
    assert asked == scripted_harness.ASKED  # judged is judged: nothing is measured twice
    new = verify_release(ws, "prod")
    assert new.release.certificate == done.certificate.id != old.release.certificate
    assert (
        new.candidate.bundle
        == bundles.find(ws, "house:1").body["manifest"]
        == bundles.find(ws, "@prod").body["manifest"]
    )
    assert new.candidate.weights == old.candidate.weights
    assert new.release.reason == "policy house:1 activated by policy-author"
    again = activation.activate(ws, policy(), "prod", suite)
    assert (again.exit_code, again.text) == (0, "alias prod serves this bundle already")
    assert told[0].startswith(f"candidate {found.candidate.id[7:19]}: ")


@pytest.mark.slow
def test_rows_of_the_same_weights_are_taken_over(ws, policy, served, suite):
    from governance import gating

    gating.evaluate(ws, served, suite)
    scripted_harness.ASKED.clear()
    assert activation.activate(ws, policy(), "prod", suite).value.verdict == "PASS"
    assert [kpi for kpi, count in scripted_harness.ASKED if count == 300] == ["right"]  # the control, in full
    assert sum(count for _, count in scripted_harness.ASKED) == 300


@pytest.mark.slow
def test_a_gate_that_says_no_leaves_the_alias_where_it_was(ws, policy, served, suite):
    old = verify_release(ws, "prod").release
    suite.write_text(SUITE.replace("noninferior, margin: 0.1", "floor, value: 0.95"))
    found = activation.activate(ws, policy(), "prod", suite)
    assert (found.exit_code, found.value.verdict, found.certificate) == (1, "FAIL", None)
    assert verify_release(ws, "prod").release == old


@pytest.mark.slow
def test_an_alias_that_moved_meanwhile_is_left_alone(ws, policy, served, suite, passed, monkeypatch):
    found = activation.activate(ws, policy(), "prod", suite)
    assert found.exit_code == 3, found.value.reasons
    approvals.approve(ws, found.candidate, reason="read")
    other = passed(b"z")
    approvals.approve(ws, other, reason="urgent")
    real = promotion.promote

    def overtaken(*args, **kwargs):
        monkeypatch.setattr(promotion, "promote", real)
        promotion.promote(ws, other, "prod")
        return real(*args, **kwargs)

    monkeypatch.setattr(promotion, "promote", overtaken)
    with pytest.raises(Refused, match="prod"):
        activation.activate(ws, policy(), "prod", suite)
    assert ws.release("prod").candidate == other.id


def test_a_plan_says_what_would_run_and_writes_nothing(ws, policy, served, suite):
    suite.write_text(SUITE + SUITE[SUITE.index("  - id: right") :].replace("right", "kept", 1))
    events = ws.store.query("SELECT COUNT(*) AS n FROM event")[0]["n"]
    planned = activation.plan(ws, policy(), "prod", suite)
    assert ws.store.query("SELECT COUNT(*) AS n FROM event")[0]["n"] == events
    assert (planned.measured, planned.kept, planned.approvals) == ({}, {"right": 300, "kept": 300}, 1)
    assert planned.bundle.startswith("house version 1")
    assert planned.replaces.startswith("default:1")


def test_only_who_may_change_policy(ws, policy, served, suite):
    for call in (
        lambda: activation.make_default(ws, policy(), actor="trainer"),
        lambda: activation.activate(ws, policy(), "prod", suite, actor="evaluator"),
        lambda: activation.plan(ws, policy(), "prod", suite, actor="approver"),
    ):
        with pytest.raises(Refused, match="may not change policy"):
            call()
    with pytest.raises(NotFound):
        activation.activate(ws, policy(), "staging", suite)
