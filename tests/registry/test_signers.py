"""Signers of both algorithms, in process and as another program; only one spelling of a signature verifies."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from registry import signers
from registry.errors import HallmarkError, Refused, SpecError
from registry.signers import ALGORITHMS, ExternalSigner, KeySigner, verify_signature

SCRIPT = Path(__file__).parents[1] / "stubs" / "openssl_signer.sh"
KEYS = {algorithm: KeySigner(signers.generate(algorithm)) for algorithm in ALGORITHMS}
MAKE = {
    "ed25519": ["openssl", "genpkey", "-algorithm", "ed25519"],
    "p256": ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
}
openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")


@given(data=st.binary(max_size=200), algorithm=st.sampled_from(ALGORITHMS))
def test_a_signature_is_good_for_its_data_and_key_only(data, algorithm):
    signer = KEYS[algorithm]
    signature = signer.sign(data)
    assert verify_signature(signer.public, signature, data)
    assert not verify_signature(signer.public, signature, data + b"\0")
    assert not verify_signature(KeySigner(signers.generate(algorithm)).public, signature, data)


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), algorithm=st.sampled_from(ALGORITHMS))
def test_no_altered_signature_verifies(place, flip, algorithm):
    signature = bytearray(KEYS[algorithm].sign(b"data"))
    signature[place % len(signature)] ^= flip
    assert not verify_signature(KEYS[algorithm].public, bytes(signature), b"data")


@given(st.binary(max_size=80))
def test_what_is_no_signature_does_not_verify(noise):
    for signer in KEYS.values():
        assert not verify_signature(signer.public, noise, b"data")
    assert not verify_signature(noise.hex(), b"", b"data")


def test_the_other_s_of_an_ecdsa_signature_does_not_verify():
    signature = KEYS["p256"].sign(b"data")
    r, s = decode_dss_signature(signature)
    other = encode_dss_signature(r, signers.P256_ORDER - s)
    KEYS["p256"].public_key().verify(other, b"data", ec.ECDSA(SHA256()))  # the plain algorithm accepts it
    assert not verify_signature(KEYS["p256"].public, other, b"data")
    assert signers.with_low_s(other) == signature


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_public_keys_go_to_pem_and_back(algorithm):
    signer = KEYS[algorithm]
    assert len(signer.public) == {"ed25519": 64, "p256": 66}[algorithm]
    assert signers.public_from_pem(signers.public_pem(signer.public).encode()) == signer.public
    assert signers.hex_of(signers.key_of(signer.public)) == signer.public
    assert (signers.algorithm_of(signer.public), signer.algorithm) == (algorithm, algorithm)
    assert signer.keyid == signers.keyid_of(signer.public)


def test_what_is_no_public_key_is_refused():
    other_curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    for key in (rsa.generate_private_key(65537, 2048).public_key(), other_curve):
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(SpecError, match="neither Ed25519 nor P-256"):
            signers.public_from_pem(pem)
    with pytest.raises(SpecError, match="this is a private key"):
        signers.public_from_pem(b"-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(SpecError, match="not a public key in PEM"):
        signers.public_from_pem(b"ssh-ed25519 AAAA")
    for text in ("", "00" * 31, "04" + "00" * 32, "02" + "ff" * 32, "zz" * 32):
        with pytest.raises(SpecError, match="is not a public key"):
            signers.public_pem(text)
    with pytest.raises(SpecError, match="unknown key type"):
        signers.generate("rsa")


@pytest.mark.parametrize("text", ["QR==", "QQ=", "Q Q==", "QQ==\n", "Q-==", "é"])
def test_base64_has_one_spelling(text):
    with pytest.raises(ValueError, match="base64|ASCII|padding|alphabet"):
        signers.from_base64(text)
    assert signers.from_base64("QQ==") == b"A"


@openssl
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_openssl_signs_as_an_external_signer(tmp_path, algorithm):
    signer = by_openssl(tmp_path, algorithm)
    assert signer.algorithm == algorithm
    for data in (b"\n", b"exact bytes\n\0\n", bytes(range(256)) * 300):
        assert verify_signature(signer.public, signer.sign(data), data)
    assert signers.hex_of(signer.public_key()) == signer.public


@openssl
def test_openssl_verifies_what_we_sign(tmp_path):
    for algorithm, key in KEYS.items():
        (tmp_path / "pub.pem").write_text(signers.public_pem(key.public))
        (tmp_path / "data").write_bytes(b"data")
        (tmp_path / "sig").write_bytes(key.sign(b"data"))
        how = {
            "ed25519": "pkeyutl -verify -pubin -inkey pub.pem -rawin -in data -sigfile sig",
            "p256": "dgst -sha256 -verify pub.pem -signature sig data",
        }[algorithm]
        assert subprocess.run(["openssl", *how.split()], cwd=tmp_path, capture_output=True).returncode == 0


@openssl
def test_a_program_that_holds_another_key_than_the_registered_one_is_refused(tmp_path):
    signer = by_openssl(tmp_path, "ed25519")
    signer = ExternalSigner("dana", signer.command, folder=tmp_path, public=KEYS["ed25519"].public)
    with pytest.raises(Refused, match="its registered key does not verify"):
        signer.sign(b"data")


@pytest.mark.parametrize(
    ("program", "error", "text"),
    [
        (
            "import sys; sys.exit('no card in the reader')",
            Refused,
            r"refused to sign \(exit 1\): no card in the reader",
        ),
        ("print('not base64!')", HallmarkError, "answered no base64"),
        ("import time; time.sleep(30)", HallmarkError, "did not answer `sign` within 0.5 s"),
    ],
)
def test_a_signer_that_fails_says_how(tmp_path, program, error, text):
    command = shlex.join([sys.executable, "-c", program])
    with pytest.raises(error, match=text):
        ExternalSigner("dana", command, folder=tmp_path, public=KEYS["p256"].public, deadline=0.5).sign(b"data")


@pytest.mark.parametrize("command", ["/nowhere/signer", "an 'open quote", ""])
def test_a_signer_that_does_not_start_says_so(tmp_path, command):
    with pytest.raises(HallmarkError) as caught:
        ExternalSigner("dana", command, folder=tmp_path).ask_public()
    assert "does not start" in caught.value.message
    assert "[signers]" in caught.value.hint


def by_openssl(folder, algorithm):
    subprocess.run([*MAKE[algorithm], "-out", "dana.key"], cwd=folder, check=True, capture_output=True)
    return ExternalSigner("dana", f"sh {shlex.quote(str(SCRIPT))} dana.key", folder=folder)
