"""Keys and DSSE: signatures that outsiders' libraries verify, and that no altered byte survives."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from registry.errors import HallmarkError, NotFound, Refused, SpecError
from registry.identity import Keys, keyid_of, open_envelope, public_hex, sign_envelope

TYPE = "application/vnd.in-toto+json"


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys")


def test_an_envelope_opens_with_its_signer_only(keys):
    public = public_hex(keys.create("a"))
    other = public_hex(keys.create("b"))
    envelope = sign_envelope(TYPE, b"payload", keys.load("a"))
    assert open_envelope(envelope, TYPE, {keyid_of(public): public}) == (b"payload", keyid_of(public))
    with pytest.raises(Refused, match="no signature by a key"):
        open_envelope(envelope, TYPE, {keyid_of(other): other})
    with pytest.raises(Refused, match="is of type"):
        open_envelope(envelope, "text/plain", {keyid_of(public): public})


def test_securesystemslib_verifies_our_envelopes(keys):
    public = public_hex(keys.create("a"))
    envelope = Envelope.from_dict(sign_envelope(TYPE, b"payload", keys.load("a")))
    key = SSlibKey(keyid_of(public), "ed25519", "ed25519", {"public": public})
    assert set(envelope.verify([key], 1)) == {keyid_of(public)}


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), part=st.sampled_from(["payload", "sig"]))
def test_no_altered_byte_verifies(tmp_path_factory, place, flip, part):
    keys = Keys(tmp_path_factory.mktemp("keys") / "k")
    public = public_hex(keys.create("a"))
    envelope = sign_envelope(TYPE, b'{"verdict":"PASS"}', keys.load("a"))
    holder = envelope if part == "payload" else envelope["signatures"][0]
    raw = bytearray(base64.b64decode(holder[part]))
    raw[place % len(raw)] ^= flip
    holder[part] = base64.b64encode(bytes(raw)).decode()
    with pytest.raises(Refused, match="does not verify"):
        open_envelope(envelope, TYPE, {keyid_of(public): public})


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
