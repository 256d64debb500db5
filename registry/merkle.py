"""The RFC 6962 hash tree over the log: roots, inclusion and consistency proofs, and their verification.

Everything here is pure. Leaves are 32-byte leaf hashes, in the order of the log; `leaf_hash` makes one of a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from registry.errors import SpecError, Tampered

EMPTY = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""

_sha256 = hashlib.sha256


def leaf_hash(data: bytes) -> bytes:
    """Return SHA-256(0x00 || data), the leaf of a record's bytes (RFC 6962 section 2.1)."""
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right), the node over two subtrees (RFC 6962 section 2.1)."""
    return _sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """What is needed to extend a tree: its size and the roots of its full subtrees, the largest first.

    Adding a leaf costs one hash on average. Raises Tampered when `peaks` do not fit `size`.
    """

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.peaks) != self.size.bit_count():
            raise Tampered(
                f"{len(self.peaks)} full subtrees make no tree of {self.size} records",
                hint="run `hallmark store rebuild`",
            )

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        waiting = self.size
        while waiting & 1:  # a full subtree of the same height stands at the end: join the two
            leaf = node_hash(self.peaks.pop(), leaf)
            waiting >>= 1
        self.peaks.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """Return the root of the tree so far."""
        if not self.peaks:
            return EMPTY
        found = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            found = node_hash(peak, found)
        return found


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    tree = Frontier()
    tree.extend(leaves)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of the leaf at `index`, from the leaf up (RFC 6962 section 2.1.1).

    Raises SpecError for an index outside the tree.
    """
    return inclusion_proofs(leaves, [index])[0]


def inclusion_proofs(leaves: Sequence[bytes], indexes: Sequence[int]) -> list[list[bytes]]:
    """Return the audit path of each of `indexes`; the tree is hashed once for all of them.

    Raises SpecError for an index outside the tree.
    """
    for index in indexes:
        if not 0 <= index < len(leaves):
            raise SpecError(f"the tree of {len(leaves)} records has no record {index}", hint="count from 0")
    levels = _levels(leaves)
    proofs = []
    for index in indexes:
        place, proof = index, []
        for level in levels:
            if place ^ 1 < len(level):
                proof.append(level[place ^ 1])
            place >>= 1
        proofs.append(proof)
    return proofs


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Return the proof that the tree over the first `first` leaves is a prefix of the tree over all (section 2.1.2).

    It is empty where `first` is 0 or all of them. Raises SpecError when `first` is larger than the tree.
    """
    if not 0 <= first <= len(leaves):
        raise SpecError(f"the tree of {len(leaves)} records holds no tree of {first}", hint="name a smaller one")
    if first in (0, len(leaves)):
        return []
    levels = _levels(leaves)
    proof: list[bytes] = []
    low, high, known = 0, len(leaves), True
    while first - low != high - low:
        height = (high - low - 1).bit_length() - 1
        middle = low + (1 << height)
        if first <= middle:
            proof.append(_subtree(levels, middle, high))
            high = middle
        else:
            proof.append(_subtree(levels, low, middle))
            low, known = middle, False
    if not known:
        proof.append(_subtree(levels, low, high))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether `proof` shows that `leaf` is number `index` of the tree of `size` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    low, high, found = index, size - 1, leaf
    for step in proof:
        if high == 0:
            return False
        if low & 1 or low == high:
            found = node_hash(step, found)
            while not low & 1 and low:
                low, high = low >> 1, high >> 1
        else:
            found = node_hash(found, step)
        low, high = low >> 1, high >> 1
    return high == 0 and found == root


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether `proof` shows that the tree of `first` is a prefix of that of `second` (RFC 9162 section 2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY
    path = [first_root, *proof] if first.bit_count() == 1 else list(proof)
    if not path or not proof:
        return False
    low, high = first - 1, second - 1
    while low & 1:
        low, high = low >> 1, high >> 1
    older = newer = path[0]
    for step in path[1:]:
        if high == 0:
            return False
        if low & 1 or low == high:
            older, newer = node_hash(step, older), node_hash(step, newer)
            while not low & 1 and low:
                low, high = low >> 1, high >> 1
        else:
            newer = node_hash(newer, step)
        low, high = low >> 1, high >> 1
    return high == 0 and older == first_root and newer == second_root


def _levels(leaves: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Return the tree bottom-up; node `i` of level `h` covers leaves from `i << h`; an odd last node moves up as is."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def _subtree(levels: list[Sequence[bytes]], low: int, high: int) -> bytes:
    """Return the hash over leaves `low` to `high`, a range that RFC 6962's splitting makes."""
    height = (high - low - 1).bit_length()
    return levels[height][low >> height]
