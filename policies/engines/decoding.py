"""One sequence being decoded: its prompt, settings, constraints, text, and where its news go."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from policies.engines.text_stream import TextStream
from policies.engines.wire import Settings


@dataclass(slots=True)
class News:
    """What one decoding step brought for a sequence; `finish` is `stop`, `length`, `error` or empty."""

    sequence: Sequence
    text: str
    finish: str = ""
    error: str = ""


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence from submission to its end. Only the batcher's thread changes it, except `cancelled`.

    `adapter` names the LoRA adapter that it is decoded with, empty for none; `limit` is the most tokens it may bring;
    `logprob` sums the log probabilities of those drawn so far.
    """

    choice: int
    prompt: list[int]
    settings: Settings
    limit: int
    receive: Callable[[News], None]
    text: TextStream
    matchers: list[Any] = field(default_factory=list)
    structured: bool = False
    adapter: str = ""
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    rng: random.Random = field(init=False)
    rules: Any = None
    logprob: float = 0.0

    def __post_init__(self) -> None:
        self.rng = self.settings.rng(self.choice)

    @property
    def need(self) -> int:
        """Return the most cache positions it can come to use."""
        return len(self.prompt) + self.limit
