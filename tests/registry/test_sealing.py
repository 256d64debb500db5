"""Sealed files: they open for whom they are for, for nobody else, and with no byte changed."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import sealing
from registry.errors import HallmarkError, NotFound, Refused, SpecError, Tampered, UnknownName
from registry.workspace import Workspace

TEXT = b'{"input": "what is held out", "target": "this"}\n' * 3


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    """A workspace with two evaluators and a trainer; nothing here changes what another test reads."""
    workspace = Workspace.create(tmp_path_factory.mktemp("sealing") / "ws")
    for name, role in (("eva", "evaluator"), ("eve", "evaluator"), ("tom", "trainer"), ("ada", "auditor")):
        workspace.add_principal(name, role, workspace.keys.create(name).public, signer="operator")
    for name in ("eva", "ada"):
        sealing.make_key(workspace, name)
    yield workspace
    workspace.close()


@pytest.fixture(scope="module")
def sealed(ws):
    return sealing.seal(ws, TEXT, ["eva"])


def test_a_file_opens_for_each_of_its_recipients_and_hides_its_text(ws):
    both = sealing.seal(ws, TEXT, ["eva", "ada"])
    assert sealing.is_sealed(both)
    assert not sealing.is_sealed(TEXT)
    assert sealing.recipients_of(both) == ("eva", "ada")
    assert b"held out" not in both
    assert [sealing.open_sealed(ws, both, name) for name in ("eva", "ada")] == [TEXT, TEXT]
    assert sealing.seal(ws, TEXT, ["eva", "ada"]) != both


def test_nobody_else_opens_it(ws, sealed):
    with pytest.raises(Refused, match="not sealed for `ada`"):
        sealing.open_sealed(ws, sealed, "ada")
    with pytest.raises(Refused, match=r"`tom` \(trainer\) may not read hold-outs"):
        sealing.open_sealed(ws, sealed, "tom")
    with pytest.raises(UnknownName):
        sealing.open_sealed(ws, sealed, "nobody")


def test_a_trainer_gets_no_key_and_no_file(ws):
    with pytest.raises(Refused, match="may not read hold-outs"):
        sealing.make_key(ws, "tom")
    with pytest.raises(Refused, match="may not read hold-outs"):
        sealing.seal(ws, TEXT, ["eva", "tom"])
    assert not sealing.key_file(ws, "tom").exists()


def test_the_acting_evaluator_is_who_opens(ws, sealed):
    with pytest.raises(SpecError, match="no principal acts as `evaluator`"):
        sealing.open_sealed(ws, sealed)
    with (ws.root / "hallmark.toml").open("a") as file:
        file.write('evaluator = "eva"\n')
    again = Workspace.open(ws.root)
    assert sealing.open_sealed(again, sealed) == TEXT
    again.close()


def test_a_recipient_needs_a_sealing_key(ws):
    with pytest.raises(NotFound, match="`eve` has no sealing key") as found:
        sealing.seal(ws, TEXT, ["eve"])
    assert found.value.hint == "`eve` makes one: `hallmark suite key --as eve`"
    for names in ([], ["eva", "eva"]):
        with pytest.raises(SpecError, match="each recipient once"):
            sealing.seal(ws, TEXT, names)


def test_every_flipped_byte_is_found(ws, sealed):
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(HallmarkError):
            sealing.open_sealed(ws, bytes(changed), "eva")


@given(st.integers(0, 255), st.data())
def test_no_cut_and_no_addition_opens(ws, sealed, byte, data):
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for changed in (sealed[:cut], sealed + bytes([byte])):
        with pytest.raises(HallmarkError):
            sealing.open_sealed(ws, changed, "eva")


@given(st.binary(max_size=3000))
def test_what_was_sealed_comes_back(ws, data):
    assert sealing.open_sealed(ws, sealing.seal(ws, data, ["eva"]), "eva") == data


def test_parts_of_two_files_do_not_mix(ws, sealed):
    other = sealing.seal(ws, b"other", ["eva"])
    opening, rest = sealed.split(b"\n", 2)[:2], sealed.split(b"\n", 2)[2]
    other_opening, other_rest = other.split(b"\n", 2)[:2], other.split(b"\n", 2)[2]
    for head, tail in ((opening, other_rest), (other_opening, rest)):
        with pytest.raises(Tampered, match="altered"):
            sealing.open_sealed(ws, b"\n".join([*head, tail]), "eva")


def test_making_a_key_again_changes_nothing(ws):
    events = len(ws.store.query("SELECT 1 FROM event"))
    assert sealing.make_key(ws, "eva") == sealing.make_key(ws, "eva")
    assert len(ws.store.query("SELECT 1 FROM event")) == events


def test_a_key_is_bound_by_its_holder_alone(tmp_path):
    """An event that another evaluator signed in her name binds no key: her files stay hers."""
    ws = Workspace.create(tmp_path / "ws")
    for name in ("eva", "eve"):
        ws.add_principal(name, "evaluator", ws.keys.create(name).public, signer="operator")
    public = sealing.make_key(ws, "eva")
    theirs = sealing.make_key(ws, "eve")
    ws.record(sealing.CREATED, "eva", {"public": theirs, "keyid": sealing.keyid_of(theirs)}, actor="eve")
    data = sealing.seal(ws, TEXT, ["eva"])
    assert sealing.keyid_of(public).encode() in data
    assert sealing.open_sealed(ws, data, "eva") == TEXT
    ws.close()


def test_a_key_file_is_private_and_may_need_a_passphrase(tmp_path):
    ws = Workspace.create(tmp_path / "ws", b"root words")
    ws.keys.passphrase = b"root words"
    ws.add_principal("eva", "evaluator", ws.keys.create("eva", b"her words").public, signer="operator")
    ws.keys.passphrase = None
    with pytest.raises(SpecError, match="does not open"):
        sealing.make_key(ws, "eva")
    ws.keys.passphrase = b"her words"
    sealing.make_key(ws, "eva")
    data = sealing.seal(ws, TEXT, ["eva"])
    assert sealing.open_sealed(ws, data, "eva") == TEXT
    path = sealing.key_file(ws, "eva")
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    ws.keys.passphrase = None
    with pytest.raises(SpecError, match="does not open with this passphrase"):
        sealing.open_sealed(ws, data, "eva")
    ws.keys.passphrase = b"her words"
    path.chmod(0o644)
    with pytest.raises(Refused, match="can be read by others"):
        sealing.open_sealed(ws, data, "eva")
    path.unlink()
    with pytest.raises(NotFound, match="is not here"):
        sealing.open_sealed(ws, data, "eva")
    sealing.make_key(ws, "eva")
    with pytest.raises(Refused, match="another key of `eva`"):
        sealing.open_sealed(ws, data, "eva")
    ws.close()


def test_other_files_and_versions_are_named(ws):
    with pytest.raises(SpecError, match="not a sealed file"):
        sealing.open_sealed(ws, TEXT, "eva")
    with pytest.raises(SpecError, match="another version"):
        sealing.open_sealed(ws, b"hallmark-sealed 2\n{}\n", "eva")
    for header in (b"", b"[]\n", b'{"recipients": [{}]}\n', b'{"recipients": 1}\n', b"\xff\n"):
        with pytest.raises(Tampered):
            sealing.open_sealed(ws, sealing.MAGIC + header, "eva")


def test_a_plain_hpke_library_call_opens_it(ws, sealed):
    """The format is what the module says: HPKE of the key, ChaCha20-Poly1305 of the data, the opening as its data."""
    import base64
    import json

    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    magic, header, rest = sealed.split(b"\n", 2)
    entry = json.loads(header)["recipients"][0]
    private = load_pem_private_key(sealing.key_file(ws, "eva").read_bytes(), None)
    fields = {"keyid": entry["keyid"], "name": "eva", "workspace": ws.settings.workspace_id}
    info = magic + b"\n" + json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    key = suite.decrypt(base64.b64decode(entry["key"]), private, info)
    assert ChaCha20Poly1305(key).decrypt(rest[:12], rest[12:], magic + b"\n" + header + b"\n") == TEXT


def test_importing_it_costs_no_cryptography():
    code = "import sys, registry.sealing; print('cryptography' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "False"
