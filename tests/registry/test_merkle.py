"""The hash tree: laws over all sizes, published vectors, and another implementation beside it."""

import hashlib

import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import merkle
from registry.errors import SpecError, Tampered

VECTOR = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The tree over 1 to 8 entries of the Certificate Transparency reference tests."""

SIZES = st.integers(1, 130)


def tree(size):
    return [merkle.leaf_hash(str(number).encode()) for number in range(size)]


def defined(leaves):
    """The root as RFC 6962 section 2.1 writes it down, by recursion."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + defined(leaves[:split]) + defined(leaves[split:])).digest()


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


def test_published_vectors():
    leaves = [merkle.leaf_hash(entry) for entry in VECTOR]
    assert [merkle.root(leaves[:size]).hex() for size in range(1, 9)] == ROOTS
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [step.hex() for step in merkle.inclusion_proof(leaves, 5)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [step.hex() for step in merkle.consistency_proof(leaves, 6)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert merkle.consistency_proof(leaves[:5], 2) == [
        bytes.fromhex("5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"),
        bytes.fromhex("bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"),
    ]


def test_every_size_has_the_root_that_the_rfc_defines():
    for size in range(70):
        assert merkle.root(tree(size)) == defined(tree(size))


def test_every_proof_of_every_small_tree_verifies():
    for size in range(1, 34):
        leaves = tree(size)
        root = merkle.root(leaves)
        proofs = merkle.inclusion_proofs(leaves, range(size))
        for index, proof in enumerate(proofs):
            assert merkle.verify_inclusion(leaves[index], index, size, proof, root)
            assert proof == merkle.inclusion_proof(leaves, index)
        for first in range(size + 1):
            proof = merkle.consistency_proof(leaves, first)
            assert merkle.verify_consistency(first, size, merkle.root(leaves[:first]), root, proof)


@settings(deadline=None)
@given(SIZES, st.data())
def test_an_altered_inclusion_proof_never_verifies(size, data):
    leaves = tree(size)
    index = data.draw(st.integers(0, size - 1))
    root, proof = merkle.root(leaves), merkle.inclusion_proof(leaves, index)
    bit = data.draw(st.integers(0, 255))
    assert merkle.verify_inclusion(leaves[index], index, size, proof, root)
    assert not merkle.verify_inclusion(flipped(leaves[index], bit), index, size, proof, root)
    assert not merkle.verify_inclusion(leaves[index], index, size, proof, flipped(root, bit))
    other = data.draw(st.integers(-1, size + 1).filter(lambda chosen: chosen != index))
    assert not merkle.verify_inclusion(leaves[index], other, size, proof, root)
    assert not merkle.verify_inclusion(leaves[index], index, size, [*proof, leaves[0]], root)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        bent = [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]]
        assert not merkle.verify_inclusion(leaves[index], index, size, bent, root)
        assert not merkle.verify_inclusion(leaves[index], index, size, proof[:at] + proof[at + 1 :], root)


@settings(deadline=None)
@given(SIZES, st.data())
def test_an_altered_consistency_proof_never_verifies(size, data):
    leaves = tree(size)
    first = data.draw(st.integers(1, size))
    old, new = merkle.root(leaves[:first]), merkle.root(leaves)
    proof = merkle.consistency_proof(leaves, first)
    bit = data.draw(st.integers(0, 255))
    assert merkle.verify_consistency(first, size, old, new, proof)
    assert not merkle.verify_consistency(first, size, flipped(old, bit), new, proof)
    assert not merkle.verify_consistency(first, size, old, flipped(new, bit), proof)
    assert not merkle.verify_consistency(first, size, old, new, [*proof, new])
    assert not merkle.verify_consistency(size + 1, size, old, new, proof)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        bent = [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]]
        assert not merkle.verify_consistency(first, size, old, new, bent)
        assert not merkle.verify_consistency(first, size, old, new, proof[:at] + proof[at + 1 :])


@settings(deadline=None)
@given(SIZES, st.data())
def test_a_rewritten_prefix_is_never_consistent(size, data):
    leaves = tree(size)
    first = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, first - 1))
    old = merkle.root(leaves[:first])
    leaves[changed] = merkle.leaf_hash(b"another record")
    proof = merkle.consistency_proof(leaves, first)
    assert not merkle.verify_consistency(first, size, old, merkle.root(leaves), proof)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5))
def test_a_frontier_grows_to_the_same_root_however_it_is_fed(steps):
    frontier, leaves = merkle.Frontier(), []
    for step in steps:
        more = [merkle.leaf_hash(b"%d" % (len(leaves) + at)) for at in range(step)]
        leaves += more
        frontier = merkle.Frontier(frontier.size, list(frontier.peaks))
        frontier.extend(more)
        assert (frontier.size, frontier.root()) == (len(leaves), merkle.root(leaves))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.data())
def test_pymerkle_agrees(size, data):
    other = pymerkle.InmemoryTree(algorithm="sha256")
    for number in range(size):
        other.append_entry(str(number).encode())
    leaves = tree(size)
    root = merkle.root(leaves)
    assert other.get_root(size) == root
    index = data.draw(st.integers(0, size - 1))
    theirs = other.prove_inclusion(index + 1, size)
    ours = merkle.inclusion_proof(leaves, index)
    assert [step for step in theirs.path if step != leaves[index]] == ours
    first = data.draw(st.integers(1, size))
    assert other.get_root(first) == merkle.root(leaves[:first])


def test_what_does_not_fit_is_refused():
    with pytest.raises(Tampered, match="full subtrees"):
        merkle.Frontier(3, [b"\x00" * 32])
    with pytest.raises(Tampered, match="full subtrees"):
        merkle.Frontier(-1, [])
    with pytest.raises(SpecError, match="no record 4"):
        merkle.inclusion_proof(tree(4), 4)
    with pytest.raises(SpecError, match="no tree of 5"):
        merkle.consistency_proof(tree(4), 5)
    assert not merkle.verify_consistency(2, 4, merkle.root(tree(2)), merkle.root(tree(4)), [])
    assert not merkle.verify_consistency(0, 4, b"", merkle.root(tree(4)), [])
