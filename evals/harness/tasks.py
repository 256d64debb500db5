"""Built-in tasks as planned samples: documents in, questions out; the same documents always give the same questions.

Nothing here knows a tokenizer, so two models with different tokenizers get the same samples.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from evals.samples import Sample, make_sample
from registry.errors import SpecError

PIECE_BYTES = 1024
"""A document is scored in pieces of about this size: a small model's whole context, and many samples a file."""
MIN_PIECE_BYTES = 64
CONTEXT_LINES = 6
MIN_CONTEXT_LINES = 3
MIN_LINE = 12
"""Characters of a line worth guessing, without its indent."""
DISTRACTORS = 3


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a KPI's data: its text and its other fields."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)

    def cluster(self, name: str) -> str:
        """Return the value of the cluster field; SpecError where it is not there. Empty without a cluster field."""
        if not name:
            return ""
        if name not in self.fields:
            known = ", ".join(f"`{key}`" for key in sorted(self.fields))
            raise SpecError(f"a row has no field `{name}`", field="cluster", hint=f"fields: {known or 'none'}")
        return str(self.fields[name])

    def slices(self, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Return field and value of each slice field; SpecError where one is not there or null."""
        for name in names:
            if self.fields.get(name) is None:
                known = ", ".join(f"`{key}`" for key in sorted(self.fields))
                raise SpecError(f"a row has no field `{name}`", field="slices", hint=f"fields: {known or 'none'}")
        return tuple((name, str(self.fields[name])) for name in names)

    def sample(
        self, text: str, cluster: str, slices: Sequence[str], *, target: str = "", choices: Sequence[str] = ()
    ) -> Sample:
        """Return a sample made of this row, in its cluster and slices."""
        made = make_sample(text, cluster=self.cluster(cluster), target=target, choices=choices)
        return replace(made, slices=self.slices(slices)) if slices else made


def plan_bits_per_byte(documents: Sequence[Document], cluster: str, slices: Sequence[str] = ()) -> Iterator[Sample]:
    """Yield pieces of documents, cut between lines, to be scored for their bits and weighed by their UTF-8 bytes."""
    for document in documents:
        for piece in pieces(document.text):
            yield document.sample(piece, cluster, slices)


def plan_next_line(documents: Sequence[Document], cluster: str, slices: Sequence[str] = ()) -> Iterator[Sample]:
    """Yield one question a document: which of four real lines follows? The answer's place is drawn by its content.

    The three wrong lines are drawn from other documents of the same data. Scored by how much the context raises a
    line's log-probability, so that a line which is likely anywhere, or short, has no advantage.
    """
    pool = _Lines(documents)
    for number, document in enumerate(documents):
        lines = document.text.split("\n")
        spots = [spot for spot in range(MIN_CONTEXT_LINES, len(lines)) if _worth_guessing(lines[spot])]
        if not spots:
            continue
        spot = min(spots, key=lambda spot: _hash("spot", lines[spot], str(spot)))
        context = "\n".join(lines[max(0, spot - CONTEXT_LINES) : spot]).rstrip()
        wrong = pool.distractors(lines[spot], number)
        if not context or len(wrong) < DISTRACTORS:
            continue
        choices = sorted(("\n" + line for line in (lines[spot], *wrong)), key=lambda line: _hash(context, line))
        yield document.sample(context, cluster, slices, target=str(choices.index("\n" + lines[spot])), choices=choices)


def plan_exact_match(documents: Sequence[Document], cluster: str, slices: Sequence[str] = ()) -> Iterator[Sample]:
    """Yield one question a row: `input` (or `text`) is asked, the answer must equal `target`."""
    for document in documents:
        if not isinstance(document.fields.get("target"), str):
            raise SpecError("a row has no `target` text", field="data", hint="each line needs `input` and `target`")
        yield document.sample(document.text, cluster, slices, target=document.fields["target"])


PLANS: dict[str, Callable[[Sequence[Document], str, Sequence[str]], Iterator[Sample]]] = {
    "bits_per_byte": plan_bits_per_byte,
    "next_line": plan_next_line,
    "exact_match": plan_exact_match,
}


def choose(samples: Iterable[Sample], count: int) -> list[Sample]:
    """Return up to `count` different samples, spread over as many clusters as possible, in an order set by content.

    Clusters are taken in turn, one sample each: the first n samples of a plan have as many clusters as n can have.
    """
    clusters: dict[str, dict[str, Sample]] = defaultdict(dict)
    seen: set[str] = set()
    for sample in samples:
        if sample.id not in seen:
            seen.add(sample.id)
            clusters[sample.cluster][sample.id] = sample
    order = sorted(clusters, key=lambda name: _hash("cluster", name))
    queues = [sorted(clusters[name].values(), key=lambda sample: sample.id) for name in order]
    chosen: list[Sample] = []
    for depth in range(max((len(queue) for queue in queues), default=0)):
        for queue in queues:
            if depth < len(queue) and len(chosen) < count:
                chosen.append(queue[depth])
    return chosen


def pieces(text: str) -> list[str]:
    """Cut a text between lines into pieces of about `PIECE_BYTES`; a longer line is cut inside; short rests go."""
    found: list[str] = []
    current: list[str] = []
    size = 0
    for line in _short_lines(text):
        length = len(line.encode())
        if current and size + length > PIECE_BYTES:
            found.append("".join(current))
            current, size = [], 0
        current.append(line)
        size += length
    found.append("".join(current))
    return [piece for piece in found if len(piece.strip().encode()) >= MIN_PIECE_BYTES]


def _short_lines(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), PIECE_BYTES // 4):  # a character has at most four bytes
            yield line[start : start + PIECE_BYTES // 4]


class _Lines:
    """All lines worth guessing, in an order drawn by their hash; each knows the documents that hold it."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.owners: dict[str, set[int]] = defaultdict(set)
        for number, document in enumerate(documents):
            for line in document.text.split("\n")[1:]:
                if _worth_guessing(line):
                    self.owners[line].add(number)
        self.ordered = sorted((_hash("line", line), line) for line in self.owners)

    def distractors(self, line: str, number: int) -> list[str]:
        """Return up to three lines of other documents: those that follow the place which the line's own hash names."""
        start = bisect.bisect_left(self.ordered, (_hash("place", line), ""))
        found: list[str] = []
        for _, other in chain(self.ordered[start:], self.ordered[:start]):
            if self.owners[other] != {number} and other.strip() != line.strip():
                found.append(other)
                if len(found) == DISTRACTORS:
                    break
        return found


def _worth_guessing(line: str) -> bool:
    return len(line.strip()) >= MIN_LINE


def _hash(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
