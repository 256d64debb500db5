"""The verifier of one file: its own JSON, proofs and notes agree with the libraries used elsewhere."""

import ast
import math
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from registry import merkle, verifier
from registry.identity import keyid_of
from registry.signers import KeySigner, generate, verify_signature

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_canonical_json_is_that_of_rfc8785(value):
    assert verifier.canonical(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_written_as_ecmascript_does(number):
    assert verifier.canonical(number) == rfc8785.dumps(number)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**53, -(2**53), "\ud800"])
def test_what_canonical_json_cannot_say_is_refused(value):
    with pytest.raises(ValueError, match="."):
        verifier.canonical(value)
    with pytest.raises(TypeError):
        verifier.canonical(b"bytes")


@given(st.integers(1, 70), st.data())
def test_inclusion_proofs_are_those_of_the_log(size, data):
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof, root = merkle.inclusion_proof(leaves, index), merkle.root(leaves)
    assert verifier.climb(leaves[index], index, size, proof) == root
    for wrong in (proof[:-1], [*proof, root]):
        if wrong != proof:
            with pytest.raises(ValueError, match="."):
                verifier.climb(leaves[index], index, size, wrong)
    if size > 1:
        other = (index + 1) % size
        with suppress(ValueError):  # a proof of another length
            assert verifier.climb(leaves[index], other, size, proof) != root


@given(st.integers(1, 70), st.data())
def test_consistency_proofs_are_those_of_the_log(size, data):
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    first = data.draw(st.integers(1, size))
    proof, older, newer = merkle.consistency_proof(leaves, first), merkle.root(leaves[:first]), merkle.root(leaves)
    assert verifier.extend(first, size, older, proof) == (older, newer)
    assert verifier.extend(first, size, b"\0" * 32, proof) != (b"\0" * 32, newer)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        forged = [*proof[:at], b"\1" * 32, *proof[at + 1 :]]
        assert verifier.extend(first, size, older, forged) != (older, newer)


@pytest.mark.parametrize("algorithm", ["ed25519", "p256"])
def test_signatures_verify_as_they_do_elsewhere(algorithm):
    signer = KeySigner(generate(algorithm))
    signature = signer.sign(b"text")
    assert verifier.good(signer.public, signature, b"text")
    assert verify_signature(signer.public, signature, b"text")
    assert not verifier.good(signer.public, signature, b"texu")
    assert verifier.sha256(bytes.fromhex(signer.public)) == keyid_of(signer.public)


@pytest.mark.parametrize("text", ["QQ==", ""])
def test_base64_has_one_spelling(text):
    assert isinstance(verifier.decode(text), bytes)
    for other in ("QR==", "Q", "QQ==\n", " QQ=="):
        with pytest.raises(ValueError, match="."):
            verifier.decode(other)


def test_it_imports_the_standard_library_and_cryptography_only():
    tree = ast.parse(Path(verifier.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names}
    assert roots - set(sys.stdlib_module_names) == {"cryptography"}


def test_wrong_usage_ends_with_2(tmp_path, capsys):
    for arguments in ([], [str(tmp_path)], [str(tmp_path), "--root", "x", "--at", "soon"]):
        with pytest.raises(SystemExit) as ended:
            verifier.main(arguments)
        assert ended.value.code == 2
    assert verifier.main([str(tmp_path / "absent"), "--root", "x"]) == 2
    assert "no folder" in capsys.readouterr().err
    assert verifier.main([str(tmp_path), "--root", "x"]) == 1
    assert "`index.json` is missing" in capsys.readouterr().out
