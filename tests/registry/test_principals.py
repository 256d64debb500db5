"""Principals: rotation and revocation under operators' signatures, and what stops everything."""

import shutil
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import principals
from registry.errors import Refused, SpecError, Tampered, UnknownName
from registry.identity import keyid_of, sign_envelope
from registry.principals import PRINCIPAL_TYPE, ROTATION_TYPE
from registry.records import canonical
from registry.signers import KeySigner, generate
from registry.workspace import Workspace

OLD = Path(__file__).parents[1] / "fixtures" / "journals" / "0.1"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    root = tmp_path_factory.mktemp("fresh") / "ws"
    Workspace.create(root).close()
    return root


@pytest.fixture
def ws(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "ws")
    return Workspace.open(tmp_path / "ws")


@pytest.fixture
def add(ws):
    def add(name, role="trainer", algorithm="ed25519", signer="operator"):
        return ws.add_principal(name, role, ws.keys.create(name, algorithm=algorithm).public, signer=signer)

    return add


def swap_key(ws, name, signer="operator", algorithm="ed25519"):
    staged = ws.keys.stage(name, algorithm=algorithm)
    made = principals.rotate(ws, name, staged.public, signer=signer)
    ws.keys.adopt(name)
    return made


def newest(ws):
    return ws.store.query("SELECT max(seq) AS seq FROM event")[0]["seq"]


@pytest.mark.parametrize("algorithm", ["ed25519", "p256"])
def test_a_rotated_key_counts_up_to_its_rotation(ws, add, algorithm):
    old = add("dana", "approver")
    before = newest(ws)
    new = swap_key(ws, "dana", algorithm=algorithm)
    known = ws.principals()
    assert (new.role, new.algorithm, new.active) == ("approver", algorithm, True)
    assert ws.principal("dana") == new == known[new.keyid]
    assert known[old.keyid].retired
    assert not known[old.keyid].active
    assert [known[old.keyid].counts_at(place) for place in (old.since, before, newest(ws))] == [False, True, False]
    assert [new.counts_at(place) for place in (before, newest(ws), newest(ws) + 9)] == [False, True, True]
    assert ws.keys.load("dana").keyid == new.keyid


def test_the_root_operator_rotates_and_the_workspace_keeps_its_id(ws, add):
    root = ws.settings.workspace_id
    new = swap_key(ws, "operator", algorithm="p256")
    assert (ws.settings.workspace_id, new.role) == (root, "operator")
    add("dana")
    swap_key(ws, "operator")
    add("eli")
    assert [p.name for p in ws.principals().values() if p.active] == ["dana", "operator", "eli"]


def test_a_retired_operator_vouches_for_nobody(ws, add):
    old = ws.keys.load("operator")
    swap_key(ws, "operator")
    claim = {"name": "mallory", "role": "operator", "public": ws.keys.create("mallory").public,
             "workspace": ws.settings.workspace_id}  # fmt: skip
    record(ws, "principal.created", "mallory", claim, PRINCIPAL_TYPE, old)
    with pytest.raises(Refused, match=r"event \d+ \(`principal.created` of `mallory`\): no signature by a key"):
        ws.principals()


def test_a_revoked_operator_neither_vouches_nor_rotates_nor_revokes(ws, add):
    add("second", "operator")
    principals.revoke(ws, "second", reason="left", signer="operator")
    for act in (
        lambda: add("dana", signer="second"),
        lambda: principals.rotate(ws, "operator", ws.keys.create("x").public, signer="second"),
        lambda: principals.revoke(ws, "operator", reason="coup", signer="second"),
    ):
        with pytest.raises(Refused):
            act()
    assert not ws.principals()[ws.keys.load("second").keyid].counts_at(newest(ws))


def test_revocation_has_its_limits(ws, add):
    add("dana")
    with pytest.raises(Refused, match="root operator's key cannot be revoked"):
        principals.revoke(ws, "operator", reason="x", signer="operator")
    swap_key(ws, "operator")
    with pytest.raises(Refused, match="is the last operator"):
        principals.revoke(ws, "operator", reason="x", signer="operator")
    with pytest.raises(Refused, match="no operator's key"):
        principals.revoke(ws, "dana", reason="x", signer="dana")
    principals.revoke(ws, "dana", reason="left", signer="operator")
    with pytest.raises(Refused, match="was revoked"):
        principals.revoke(ws, "dana", reason="again", signer="operator")
    with pytest.raises(UnknownName):
        principals.revoke(ws, "nobody", reason="x", signer="operator")


def test_one_key_is_one_principal(ws, add):
    dana = add("dana")
    with pytest.raises(Refused, match="this key is that of `dana` already"):
        ws.add_principal("twin", "approver", dana.public, signer="operator")
    with pytest.raises(Refused, match="this key is that of `dana` already"):
        principals.rotate(ws, "operator", dana.public, signer="operator")
    with pytest.raises(SpecError, match="is not a public key"):
        ws.add_principal("eli", "approver", "00ff", signer="operator")


def test_a_replayed_registration_does_not_undo_a_revocation(ws, add):
    add("dana", "approver")
    genuine = body_of(ws, "dana")
    principals.revoke(ws, "dana", reason="stolen", signer="operator")
    ws.record("principal.created", "dana", genuine, actor="operator")
    with pytest.raises(Tampered, match="a second time"):
        ws.principals()


def test_a_replayed_rotation_brings_no_old_key_back(ws, add):
    add("dana", "approver")
    swap_key(ws, "dana")
    genuine = body_of(ws, "dana")
    swap_key(ws, "dana")
    ws.record("principal.rotated", "dana", genuine, actor="operator")
    with pytest.raises(Tampered, match="does not hold the key"):
        ws.principals()


def test_an_unsigned_revocation_stops_everything(ws, add):
    dana = add("dana")
    ws.record("principal.revoked", "dana", {"keyid": dana.keyid, "reason": "because"}, actor="operator")
    with pytest.raises(Refused, match=r"`principal.revoked` of `dana`"):
        ws.principals()


def test_a_signed_claim_is_good_for_its_own_kind_only(ws, add):
    dana = add("dana")
    claim = {"name": "dana", "keyid": dana.keyid, "reason": "x", "workspace": ws.settings.workspace_id, "at": "now"}
    record(ws, "principal.revoked", "dana", claim, PRINCIPAL_TYPE, ws.keys.load("operator"))
    with pytest.raises(Refused, match="envelope is of type"):
        ws.principals()


@pytest.mark.parametrize(
    ("field", "value"), [("role", "trainer"), ("replaces", "00" * 32), ("workspace", "00" * 32), ("name", "eli")]
)
def test_a_rotation_that_differs_from_what_was_signed_is_refused(history, field, value):
    ws, rows, _ = history
    operator, public = ws.principal("operator"), KeySigner(generate()).public
    claim = {"name": "operator", "role": "operator", "public": public, "replaces": operator.keyid,
             "workspace": ws.settings.workspace_id, "at": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    for signed, text in ((claim, None), ({**claim, field: value}, "differs from what its operator signed")):
        envelope = sign_envelope(ROTATION_TYPE, canonical(signed), ws.keys.load("operator"))
        body = {**claim, "keyid": keyid_of(public), "envelope": envelope}
        row = {**rows[-1], "seq": 99, "kind": "principal.rotated", "subject": "operator", "body": orjson.dumps(body)}
        if text is None:
            assert keyid_of(public) in principals.fold(ws, [*rows, row])
        else:
            with pytest.raises(Refused, match=text):
                principals.fold(ws, [*rows, row])


@pytest.mark.parametrize("body", [{}, {"keyid": []}, {"keyid": "x", "reason": "y", "envelope": "z"}])
@pytest.mark.parametrize("kind", principals.KINDS)
def test_a_malformed_entry_is_an_error_not_a_crash(history, kind, body):
    ws, rows, _ = history
    bad = {**rows[-1], "seq": 99, "kind": kind, "body": orjson.dumps(body)}
    with pytest.raises((Refused, Tampered), match=f"event 99 .*{kind}"):
        principals.fold(ws, [*rows, bad])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(place=st.integers(0, 1_000_000), flip=st.integers(1, 127), kind=st.sampled_from(principals.KINDS))
def test_no_altered_byte_of_a_principal_goes_unnoticed(history, place, flip, kind):
    ws, rows, known = history
    index = next(i for i, row in enumerate(rows) if row["kind"] == kind)
    raw = bytearray(rows[index]["body"].encode())
    raw[place % len(raw)] ^= flip
    changed = [*rows[:index], {**rows[index], "body": bytes(raw)}, *rows[index + 1 :]]
    try:
        found = principals.fold(ws, changed)
    except (Refused, Tampered):
        return
    assert found == known  # nothing that counts was altered


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    ws = Workspace.create(tmp_path_factory.mktemp("history") / "ws")
    ws.add_principal("dana", "approver", ws.keys.create("dana", algorithm="p256").public, signer="operator")
    swap_key(ws, "dana")
    swap_key(ws, "operator", algorithm="p256")
    principals.revoke(ws, "dana", reason="left", signer="operator")
    rows = ws.store.query("SELECT * FROM event WHERE kind LIKE 'principal.%' ORDER BY seq")
    return ws, rows, principals.fold(ws, rows)


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    for name in ("store", "releases", "work", "keys"):
        (tmp_path / "old" / name).mkdir(exist_ok=True)
    return Workspace.open(tmp_path / "old")


def test_a_journal_of_release_0_1_keeps_its_unsigned_revocations(old):
    known = old.principals()
    trainer = next(p for p in known.values() if p.name == "trainer")
    rows = old.store.query("SELECT * FROM event WHERE kind LIKE 'principal.%' ORDER BY seq")
    last = {**rows[-1], "seq": rows[-1]["seq"] + 1, "kind": "principal.revoked", "subject": "trainer", "v": 1,
            "body": orjson.dumps({"keyid": trainer.keyid, "reason": "left"})}  # fmt: skip
    for extra in ([last], [last, {**last, "seq": last["seq"] + 1}]):
        assert principals.fold(old, [*rows, *extra])[trainer.keyid].revoked
    with pytest.raises(Refused, match="principal.revoked"):
        principals.fold(old, [*rows, {**last, "v": 2}])


def test_a_frame_of_version_1_after_one_of_version_2_is_not_old(ws, add):
    dana = add("dana")
    rows = ws.store.query("SELECT * FROM event WHERE kind LIKE 'principal.%' ORDER BY seq")
    late = {**rows[-1], "seq": 99, "kind": "principal.revoked", "v": 1,
            "body": orjson.dumps({"keyid": dana.keyid, "reason": "x"})}  # fmt: skip
    with pytest.raises(Refused, match="principal.revoked"):
        principals.fold(ws, [*rows, late])


def test_an_external_signer_is_held_to_the_registered_key(ws, add):
    dana = add("dana")
    ws.keys.commands["dana"] = "false"
    ws.principals()
    assert ws.keys.load("dana").public == dana.public
    with pytest.raises(Refused, match="refused to sign"):
        ws.keys.load("dana").sign(b"x")


def body_of(ws, name):
    sql = "SELECT body FROM event WHERE subject = ? ORDER BY seq DESC LIMIT 1"
    return orjson.loads(ws.store.query(sql, [name])[0]["body"])


def record(ws, kind, name, claim, payload_type, signer):
    body = {
        **claim,
        "keyid": claim.get("keyid", "00"),
        "envelope": sign_envelope(payload_type, canonical(claim), signer),
    }
    ws.record(kind, name, body, actor=name)
