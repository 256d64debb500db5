"""A drift verdict opens one re-certification, a certificate on a new PASS closes it, and time may end the old one."""

import numpy as np
import pytest

from evals.drift import check as room
from governance import approvals, promotion, recertification
from registry.attestation import verify_release
from registry.errors import NotFound, NotYet, Refused, Tampered
from tests.evals.drift.logged import decisions


@pytest.fixture
def served(ws, passed):
    """A promoted candidate."""
    candidate = passed(b"a")
    approvals.approve(ws, candidate, reason="reviewed")
    promotion.promote(ws, candidate, "prod")
    return candidate


def checked(ws, *, drift=True, seed=0, start=0):
    rng = np.random.default_rng(seed)
    after = {"blocked": 0.5} if drift else {}
    ws.journal.append([*decisions(rng, start, 100), *decisions(rng, start + 100, 100, **after)])
    return room.check(ws, "prod", actor="auditor")


def test_drift_opens_one_and_not_two(ws, served):
    certificate = ws.release("prod").certificate
    window = checked(ws)
    first = recertification.open_for(ws, window, actor="auditor")
    again = recertification.open_for(ws, room.check(ws, "prod", actor="auditor"), actor="auditor")
    assert (first.certificate, first.candidate, first.window) == (certificate, served.id, window.id)
    assert again == first
    assert recertification.recertifications(ws, "prod") == [first]
    assert recertification.recertifications(ws, "other") == []
    assert "open" in recertification.lines([first])[0]


def test_quiet_and_unpromoted_open_nothing(ws, served):
    assert recertification.open_for(ws, checked(ws, drift=False), actor="auditor") is None
    rng = np.random.default_rng(1)
    ws.journal.append([*decisions(rng, 0, 60, endpoint="new"), *decisions(rng, 60, 60, blocked=0.9, endpoint="new")])
    window = room.check(ws, "new", actor="auditor")
    assert window.verdict == "drift"
    assert recertification.open_for(ws, window, actor="auditor") is None


def test_a_certificate_on_a_new_pass_closes_it(ws, served, passed):
    recertification.open_for(ws, checked(ws), actor="auditor")
    assert recertification.settle(ws, "prod", actor="auditor") == []
    newer = passed(b"b")
    approvals.approve(ws, newer, reason="reviewed")
    promotion.promote(ws, newer, "prod")
    (item,) = recertification.recertifications(ws)
    assert item.successor == ws.release("prod").certificate
    assert item.closed > item.opened
    assert recertification.settle(ws, "prod", actor="auditor") == []


def test_going_back_to_an_old_certificate_closes_nothing(ws, served, passed):
    second = passed(b"b")
    approvals.approve(ws, second, reason="reviewed")
    promotion.promote(ws, second, "prod")
    recertification.open_for(ws, checked(ws), actor="auditor")
    promotion.rollback(ws, "prod", reason="drift")
    recertification.settle(ws, "prod", actor="auditor")
    assert [item.closed for item in recertification.recertifications(ws)] == [""]


def test_the_same_candidate_may_be_certified_anew(ws, served, judge):
    from registry.records import GateDecision

    recertification.open_for(ws, checked(ws), actor="auditor")
    old = ws.assets("decision")[-1].body
    again = GateDecision(**{**old, "suite": "sha256:fresh"})
    ws.register(again, actor="evaluator", name=served.name)
    approvals.approve(ws, served, reason="reviewed again")
    promotion.promote(ws, served, "prod")
    (item,) = recertification.recertifications(ws)
    assert item.successor == ws.release("prod").certificate != item.certificate


def test_what_is_not_recertified_in_time_may_be_revoked(ws, served):
    opened = recertification.open_for(ws, checked(ws), actor="auditor")
    assert recertification.lapsed(ws, "prod", 3) == []
    (item,) = recertification.lapsed(ws, "prod", 0)
    assert item == opened
    promotion.revoke(ws, item.certificate, reason="drift")
    with pytest.raises(Refused, match="drift"):
        verify_release(ws, "prod")
    assert recertification.lapsed(ws, "prod", 0) == []


def test_one_that_nobody_signed_does_not_count(ws, served):
    certificate = ws.release("prod").certificate
    body = {"alias": "prod", "candidate": served.id, "window": "sha256:w", "cause": ""}
    ws.journal.append([("recertification.opened", certificate, body, "auditor")])
    with pytest.raises(Tampered, match="no signature"):
        recertification.lapsed(ws, "prod", 0)


def test_a_trainer_cannot_open_one(ws, served):
    with pytest.raises(Refused, match="does not count"):
        recertification.open_for(ws, checked(ws), actor="trainer")


def test_a_decision_from_before_the_drift_says_nothing_new(ws, served, judge):
    before = ws.assets("decision")[-1]
    recertification.check_fresh(ws, "prod", before)
    recertification.open_for(ws, checked(ws), actor="auditor")
    with pytest.raises(NotYet, match="before the drift"):
        recertification.check_fresh(ws, "prod", before)
    recertification.check_fresh(ws, "prod", judge(served, "INCONCLUSIVE"))


def test_what_was_never_promoted_is_not_reevaluated(ws, tmp_path):
    with pytest.raises(NotFound):
        recertification.reevaluate(ws, "nobody", tmp_path / "suite.yaml")
