"""The workspace: references as git's, principals vouched for by operators, idempotent registration."""

import orjson
import pytest

from registry import principals
from registry.errors import NotFound, Refused, SpecError, Tampered, UnknownName
from registry.identity import public_hex, sign_envelope
from registry.principals import PRINCIPAL_TYPE
from registry.records import ModelVersion, canonical
from registry.workspace import Workspace


@pytest.fixture
def ws(tmp_path):
    return Workspace.create(tmp_path / "ws")


def version(name, manifest="0"):
    return ModelVersion(name, "sha256:" + manifest * 64, None, None, [], "Mistral", 1, {})


def test_an_asset_is_found_by_id_prefix_name_and_number(ws):
    first = ws.register(version("a"), actor="t", name="code", parents=[("base", "x")])
    second = ws.register(version("b"), actor="u", name="code")
    assert (first.number, second.number, first.owner, first.parents) == (1, 2, "t", (("base", "x"),))
    assert ws.resolve("code", "version").id == second.id
    assert ws.resolve("code:1", "version").id == first.id
    assert ws.resolve(first.id, "version") == first
    assert ws.resolve(first.id[7:15], "version") == first
    assert ws.get("code:1", ModelVersion) == version("a")


def test_the_same_record_is_registered_once(ws):
    first = ws.register(version("a"), actor="t", name="code")
    assert ws.register(version("a"), actor="someone else", name="other") == first
    assert len(ws.assets("version")) == 1


def test_unknown_references_offer_near_ones(ws):
    ws.register(version("a"), actor="t", name="code")
    with pytest.raises(UnknownName) as caught:
        ws.resolve("cod", "version")
    assert caught.value.hint == "did you mean `code`?"
    for ref in ("code:9", "ffff"):
        with pytest.raises(NotFound):
            ws.resolve(ref, "version")
    with pytest.raises(UnknownName, match="unknown alias"):
        ws.resolve("code@prod", "version")
    with pytest.raises(SpecError, match="not an alias"):
        ws.release("../keys/operator")


def test_the_root_key_vouches_for_operators_who_vouch_for_others(ws):
    ws.add_principal("second", "operator", public_hex(ws.keys.create("second")), signer="operator")
    ws.add_principal("dana", "approver", public_hex(ws.keys.create("dana")), signer="second")
    assert {p.name: p.role for p in ws.principals().values()} == {
        "operator": "operator", "second": "operator", "dana": "approver",
    }  # fmt: skip
    with pytest.raises(Refused, match="exists"):
        ws.add_principal("dana", "operator", "00" * 32, signer="operator")
    with pytest.raises(UnknownName, match="unknown principal"):
        ws.principal("dan")


def test_a_principal_nobody_vouched_for_is_refused(ws):
    public = public_hex(ws.keys.create("mallory"))
    claim = {"name": "mallory", "role": "operator", "public": public, "workspace": ws.settings.workspace_id}
    envelope = sign_envelope(PRINCIPAL_TYPE, canonical(claim), ws.keys.load("mallory"))
    body = {"role": "operator", "keyid": "00", "public": public, "envelope": envelope}
    ws.record("principal.created", "mallory", body, actor="mallory")
    with pytest.raises(Refused, match="no signature by a key"):
        ws.principals()


def test_a_role_other_than_the_signed_one_is_refused(ws):
    public = public_hex(ws.keys.create("dana"))
    ws.add_principal("dana", "trainer", public, signer="operator")
    row = ws.store.query("SELECT body FROM event WHERE subject = 'dana'")[0]
    forged = {**orjson.loads(row["body"]), "role": "approver"}
    ws.record("principal.created", "dana", forged, actor="operator")
    with pytest.raises(Refused, match="differs from what its operator signed"):
        ws.principals()


def test_a_revoked_key_no_longer_acts(ws):
    ws.add_principal("dana", "trainer", public_hex(ws.keys.create("dana")), signer="operator")
    principals.revoke(ws, "dana", reason="left", signer="operator")
    with pytest.raises(Refused, match="was revoked"):
        ws.principal("dana")


def test_a_damaged_pointer_is_tampering(ws):
    (ws.root / "releases" / "prod.json").write_text("{")
    with pytest.raises(Tampered, match="pointer file"):
        ws.release("prod")


def test_a_second_workspace_in_the_same_folder_is_refused(ws):
    with pytest.raises(Refused, match="is a workspace already"):
        Workspace.create(ws.root)


def test_scratch_folders_stay_inside_the_workspace(ws):
    assert ws.work("runs", "sha256:ab", "../../x").resolve().is_relative_to(ws.root / "work")
