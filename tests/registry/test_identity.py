"""Keys and DSSE: signatures that outsiders' libraries verify, and that no altered byte survives."""

import base64
import copy
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from registry.errors import HallmarkError, NotFound, Refused, SpecError
from registry.identity import Keys, Principal, keyid_of, open_envelope, public_hex, sign_envelope
from registry.signers import ALGORITHMS, verify_signature

TYPE = "application/vnd.in-toto+json"


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_envelope_opens_with_its_signer_only(keys, algorithm):
    public = keys.create("a", algorithm=algorithm).public
    other = public_hex(keys.create("b").public_key())
    envelope = sign_envelope(TYPE, b"payload", keys.load("a"))
    assert open_envelope(envelope, TYPE, {keyid_of(public): public}) == (b"payload", keyid_of(public))
    with pytest.raises(Refused, match="no signature by a key"):
        open_envelope(envelope, TYPE, {keyid_of(other): other})
    with pytest.raises(Refused, match="is of type"):
        open_envelope(envelope, "text/plain", {keyid_of(public): public})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_securesystemslib_verifies_our_envelopes(keys, algorithm):
    signer = keys.create("a", algorithm=algorithm)
    envelope = Envelope.from_dict(sign_envelope(TYPE, b"payload", signer))
    key = SSlibKey.from_crypto(signer.public_key(), keyid=signer.keyid)
    assert set(envelope.verify([key], 1)) == {signer.keyid}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_we_open_envelopes_of_securesystemslib(keys, algorithm):
    path = keys.root / "a.pem"
    signer = keys.create("a", algorithm=algorithm)
    theirs = CryptoSigner.from_priv_key_uri(f"file2:{path}", SSlibKey.from_crypto(signer.public_key()))
    envelope = Envelope(b"payload", TYPE, {})
    for _ in range(64):  # ours is the smaller of the two values of s, theirs is either
        theirs_signed = envelope.sign(theirs).signature
        if verify_signature(signer.public, bytes.fromhex(theirs_signed), envelope.pae()):
            break
    given = {"payloadType": TYPE, "payload": base64.b64encode(b"payload").decode(),
             "signatures": [{"keyid": signer.keyid,
                             "sig": base64.b64encode(bytes.fromhex(theirs_signed)).decode()}]}  # fmt: skip
    assert open_envelope(given, TYPE, {signer.keyid: signer.public}) == (b"payload", signer.keyid)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """By algorithm: a signer and what it signed."""
    keys = Keys(tmp_path_factory.mktemp("keys") / "k")
    signers = {algorithm: keys.create(algorithm, algorithm=algorithm) for algorithm in ALGORITHMS}
    return {name: (signer, sign_envelope(TYPE, b'{"verdict":"PASS"}', signer)) for name, signer in signers.items()}


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), part=st.sampled_from(["payload", "sig"]),
       algorithm=st.sampled_from(ALGORITHMS))  # fmt: skip
def test_no_altered_byte_verifies(signed, place, flip, part, algorithm):
    signer, envelope = copy.deepcopy(signed[algorithm])
    holder = envelope if part == "payload" else envelope["signatures"][0]
    raw = bytearray(base64.b64decode(holder[part]))
    raw[place % len(raw)] ^= flip
    holder[part] = base64.b64encode(bytes(raw)).decode()
    with pytest.raises(Refused, match="does not verify"):
        open_envelope(envelope, TYPE, {signer.keyid: signer.public})


@given(place=st.integers(0, 10_000), flip=st.integers(1, 127), algorithm=st.sampled_from(ALGORITHMS))
def test_no_altered_character_of_an_envelope_opens(signed, place, flip, algorithm):
    signer, envelope = signed[algorithm]
    raw = bytearray(json.dumps(envelope).encode())
    raw[place % len(raw)] ^= flip
    try:
        altered = json.loads(bytes(raw))
    except ValueError:
        return
    if altered == envelope:  # white space
        return
    with pytest.raises(HallmarkError):
        open_envelope(altered, TYPE, {signer.keyid: signer.public})


@pytest.mark.parametrize(
    "broken", [{}, {"payload": "!", "signatures": []}, {"payload": "", "signatures": [{"keyid": 1}]}]
)
def test_a_malformed_envelope_is_an_error_not_a_crash(broken):
    with pytest.raises(HallmarkError):
        open_envelope({"payloadType": TYPE, **broken}, TYPE, {})


def test_key_files_are_private_and_encrypted_ones_need_their_passphrase(keys):
    keys.create("plain")
    keys.create("locked", b"secret")
    path = keys.root / "plain.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.load("locked", b"secret").sign(b"x")
    with pytest.raises(SpecError, match="does not open"):
        keys.load("locked", b"wrong")
    with pytest.raises(SpecError, match="does not open"):
        keys.load("locked")
    path.chmod(0o640)
    with pytest.raises(Refused, match="can be read by others") as caught:
        keys.load("plain")
    assert caught.value.hint.startswith("chmod 600")
    with pytest.raises(NotFound, match="no key for"):
        keys.load("absent")
    with pytest.raises(Refused, match="exists"):
        keys.create("locked")
    for bad in ("", "../x", ".hidden", "a b"):
        with pytest.raises(SpecError, match="not a principal's name"):
            keys.create(bad)


def test_a_key_file_of_another_user_is_refused(keys, monkeypatch):
    keys.create("a")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Refused, match="belongs to another user"):
        keys.load("a")


def test_the_default_passphrase_opens_encrypted_keys_and_leaves_others_alone(keys):
    keys.create("plain")
    keys.create("locked", b"secret", "p256")
    keys.passphrase = b"secret"
    assert (keys.load("plain").algorithm, keys.load("locked").algorithm) == ("ed25519", "p256")
    keys.passphrase = b"wrong"
    with pytest.raises(SpecError, match="does not open"):
        keys.load("locked")


def test_a_key_of_another_kind_is_named(keys):
    keys.root.mkdir()
    subprocess.run([sys.executable, "-c", OTHER, str(keys.root / "a.pem")], check=True)
    with pytest.raises(SpecError, match="neither Ed25519 nor P-256"):
        keys.load("a")


def test_a_staged_key_takes_the_place_of_the_old_one(keys):
    old = keys.create("a")
    staged = keys.stage("a", b"secret", "p256")
    assert keys.stage("a", b"secret").keyid == staged.keyid  # a crash left it
    assert keys.names() == ["a"]
    assert keys.load("a").keyid == old.keyid
    keys.adopt("a")
    keys.adopt("a")
    assert keys.load("a", b"secret").keyid == staged.keyid
    assert len(list(keys.root.glob("a.*.retired"))) == 1


def test_names_are_those_that_sign_here(keys):
    keys.create("a")
    keys.commands["card"] = "signer"
    assert keys.names() == ["a", "card"]
    assert [keys.holds(name) for name in ("a", "card", "b", "", "../a")] == [True, True, False, False, False]
    with pytest.raises(Refused, match="has an external signer"):
        keys.create("card")


def test_a_principal_knows_where_its_key_counts():
    principal = Principal("a", "trainer", "00", "11" * 32, since=3, until=7)
    assert [place for place in range(10) if principal.counts_at(place)] == [3, 4, 5, 6]
    assert principal.active
    assert principal.algorithm == "ed25519"


OTHER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
key = ec.generate_private_key(ec.SECP384R1())
path = Path(sys.argv[1])
path.touch(0o600)
path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
"""
