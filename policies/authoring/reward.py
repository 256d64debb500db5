"""A bundle as a training reward: how well an answer keeps the output rules, in [0, 1], with a term for each rule.

A `registry.protocols.Scorer`, resolved by the name `policy` (group `hallmark.scorer`) and pinned to a bundle's digest:
`Reward.open(folder, digest)` refuses other rules than those the recipe names. It pickles as folder and digest, so
that a child process makes its own. What a model was rewarded with must not be the only thing that judges it: `origin`
is what the training run keeps, and what a gate compares its instruments with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.bundle import Bundle, compile_bundle, content_digest, load
from policies.enforcement.engine import Enforcer
from policies.enforcement.rules import AnyRule, JsonSchemaRule, MaxLengthRule, SpanRule, WholeRule
from policies.enforcement.scan import CompiledBundle
from registry.errors import Tampered

PARSES = 0.25
"""What JSON of the wrong shape is worth: closer to the rule than what is no JSON at all."""


@dataclass(frozen=True, slots=True)
class Score:
    """How one answer did. `value` is the product of `terms`: 1 exactly where no scored rule acts, 0 where one stops it.

    `terms` are by rule id, in [0, 1], and only those below 1; `bundle` is the digest of the rules.
    """

    value: float
    terms: dict[str, float] = field(default_factory=dict)
    bundle: str = ""


class Reward:
    """Scores answers against the output rules of one bundle; validators and own rules, which are code, are left out."""

    def __init__(self, bundle: Bundle, compiled: CompiledBundle | None = None) -> None:
        """Take a bundle, and what it was compiled to where that is known."""
        self.folder, self.digest = bundle.folder, content_digest(bundle.folder)
        self.name = f"policy:{bundle.spec.name}:{bundle.spec.version}"
        self._compiled = compiled or compile_bundle(bundle)
        self._enforcer = Enforcer(self._compiled)
        side = self._compiled.output
        self._rules = {rule.id: rule for rule in side.rules}
        self._off = frozenset(rule.id for rule in side.rules if not scored(rule))
        self.__name__ = "policy"  # trainers name a reward in their logs by this

    @classmethod
    def open(cls, folder: Path | str, digest: str) -> Reward:
        """Return the reward of a bundle's folder.

        Raises:
            Tampered: the folder's files are not those of the digest (`policies.bundle.content_digest`).
            NotFound, SpecError: as `policies.bundle.load` does.
        """
        bundle = load(Path(folder))
        if content_digest(bundle.folder) != digest:
            raise Tampered(f"`{folder}` is not the bundle `{digest[:19]}`", hint="check out the bundle of the recipe")
        return cls(bundle)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reward.open, (str(self.folder), self.digest)

    @property
    def origin(self) -> dict[str, Any]:
        """What this reward is made of: the bundle's digest, the rules it scores and those it does not."""
        return {
            "scorer": self.name,
            "bundle": self.digest,
            "rules": sorted(self._rules.keys() - self._off),
            "not_scored": sorted(self._off),
        }

    def __call__(self, prompts: Sequence[str], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return one score per completion; a completion is a text, or a list of chat messages."""
        return [self.score(_text(completion)).value for completion in completions]

    def score(self, text: str) -> Score:
        """Return an answer's score with its terms. A rule that stops the answer is 0; so are all of its kind after it.

        A rule that redacts or masks `n` places is `1 / (1 + n)`; a length that is exceeded, the limit over the length;
        JSON of the wrong shape `PARSES`.
        """
        stopped: set[str] = set()
        while True:  # a stop hides what follows: take it away to see what the other rules say
            piece = self._enforcer.check_output(text, exempt=self._off | stopped)
            if piece.blocked is None or piece.blocked not in self._rules:
                break
            stopped.add(piece.blocked)
        found = Counter(hit.rule for hit in piece.hits)
        terms = {name: 1 / (1 + count) for name, count in found.items()}
        terms |= {name: _stopped(self._rules[name], text) for name in stopped}
        value = 0.0 if piece.blocked is not None else 1.0
        for term in terms.values():
            value *= term
        return Score(value, terms, self.digest)


def scored(rule: AnyRule) -> bool:
    """Say whether a rule has a term: it acts on answers, and is no code of a bundle or of a third party."""
    known = isinstance(rule, SpanRule | MaxLengthRule | WholeRule)
    return known and rule.applies_to("output")


def _stopped(rule: AnyRule, text: str) -> float:
    """Return the term of a rule that stopped an answer."""
    if isinstance(rule, MaxLengthRule):
        return min(rule.characters / max(len(text), 1), 1 - 1e-6)
    if isinstance(rule, JsonSchemaRule):
        return PARSES if _is_json(text) else 0.0
    return 0.0


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    messages: Iterable[Any] = completion if isinstance(completion, list) else [completion]
    parts = [message.get("content") for message in messages if isinstance(message, dict)]
    return "".join(part for part in parts if isinstance(part, str))
