"""Legal holds: placed and lifted by those who may, with a reason, signed, and told apart."""

import pytest

from governance import holds
from registry.errors import HallmarkError, NotFound, Refused


def test_a_hold_stands_until_it_is_lifted(ws, add_version):
    version = add_version()
    hold = holds.place(ws, "code", reason="matter 2026-14")
    assert (hold.target, hold.by, hold.lifted) == (version.id, "auditor", "")
    assert set(holds.covered(ws)) >= {version.id, ws.assets("run")[0].id}
    lifted = holds.lift(ws, hold.id[:6], reason="closed")
    assert lifted.lifted
    assert holds.covered(ws) == {}
    with pytest.raises(Refused, match="was lifted"):
        holds.lift(ws, hold.id, reason="again")


def test_two_holds_on_one_asset_are_lifted_one_by_one(ws, add_version):
    version = add_version()
    first, second = (holds.place(ws, version.id, reason=reason) for reason in ("one", "two"))
    holds.lift(ws, first.id, reason="closed")
    assert holds.covered(ws)[version.id].id == second.id


def test_reasons_roles_and_targets_are_asked_for(ws, add_version):
    version = add_version()
    with pytest.raises(Refused, match="needs a reason"):
        holds.place(ws, version.id, reason=" ")
    with pytest.raises(Refused, match="may not place hold"):
        holds.place(ws, version.id, reason="x", actor="trainer")
    hold = holds.place(ws, version.id, reason="x")
    with pytest.raises(Refused, match="may not lift hold"):
        holds.lift(ws, hold.id, reason="x", actor="auditor")
    with pytest.raises(Refused, match="needs a reason"):
        holds.lift(ws, hold.id, reason="")
    with pytest.raises(NotFound, match="no hold"):
        holds.lift(ws, "ffffffffffff", reason="x")
    with pytest.raises(NotFound):
        holds.place(ws, "nothing", reason="x")


def test_a_lift_that_nobody_signed_lifts_nothing(ws, add_version):
    hold = holds.place(ws, add_version().id, reason="x")
    ws.journal.append([("hold.lifted", hold.id, {"reason": "forged"}, "operator")])
    with pytest.raises(HallmarkError, match="no signature"):
        holds.covered(ws)
