"""Hallmark's rules as a guardrails-ai validator, for people who run it elsewhere: `Guard().use(HallmarkPolicy(...))`.

Importing this imports guardrails, which takes seconds, tries to download `punkt` where nltk is installed, and reports
usage unless `~/.guardrailsrc` says `enable_metrics=false`. For streams use `on_fail="fix"`: with any other action
guardrails itself passes each chunk on before it has been validated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guardrails.validators import (  # noqa: TID253 - whoever imports this module runs guardrails
    ErrorSpan,
    FailResult,
    PassResult,
    ValidationResult,
    Validator,
    register_validator,
)

from policies.bundle import compile_bundle, load
from policies.enforcement.engine import Enforcer, OutputStream
from policies.enforcement.stream import Hit
from registry.errors import SpecError

MOST_STREAMS = 1024
"""Streams without an end that are remembered; beyond, the oldest is forgotten and what it held is never released."""


@dataclass(slots=True)
class _Running:
    """A stream: its state, where its text that is not yet judged begins, and what was released and found in that."""

    stream: OutputStream
    context: Any
    base: int = 0
    taken: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    blocked: str | None = None


@register_validator(name="hallmark/policy", data_type="string")
class HallmarkPolicy(Validator):  # type: ignore[misc]
    """Fails on what the rules of a bundle find; `fix_value` is what the endpoint would have released.

    A text that a rule blocks is fixed to nothing; in a stream, what was released before stands.
    """

    def __init__(
        self,
        bundle: str,
        side: Literal["input", "output"] = "output",
        code: Literal["refuse", "skip"] = "refuse",
        on_fail: Callable[..., Any] | str | None = None,
    ) -> None:
        """Load and compile a bundle.

        Args:
            bundle: its folder.
            side: which side's rules to apply; streams are outputs.
            code: what to do with a bundle whose `guardrails` and `python` rules would not be run here.
            on_fail: guardrails' action: `fix` puts in the redacted text, `exception` raises, and so on.

        Raises:
            SpecError: the bundle has a mistake, or rules of code and `code` is not `skip`.
        """
        super().__init__(on_fail=on_fail, bundle=bundle, side=side, code=code)
        self._enforcer = Enforcer(compile_bundle(load(Path(bundle))))
        rules = self._enforcer.input_guards if side == "input" else self._enforcer.guard_rules
        if rules and code != "skip":
            raise SpecError(
                f"rule `{rules[0].id}` is code, which is not run here", hint="leave it to the endpoint: `code='skip'`"
            )
        self._side, self._exempt = side, frozenset(rule.id for rule in rules)
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()

    def _validate(self, value: Any, metadata: dict[str, Any]) -> ValidationResult:
        """Return what the rules say of a whole text; error spans are code points of it."""
        if not isinstance(value, str):
            return FailResult(error_message="not a text", fix_value="")
        check = self._enforcer.check_input if self._side == "input" else self._enforcer.check_output
        piece = check(value, exempt=self._exempt)
        return _result(value, "" if piece.blocked else piece.text, piece.hits, 0, piece.blocked)

    def validate_stream(self, chunk: Any, metadata: dict[str, Any], **kwargs: Any) -> ValidationResult | None:
        """Return None while a rule may still claim the end of what came in, else what is released of it.

        One stream a validator and thread at a time, or a `context` of guardrails' asynchronous guard.
        """
        context = kwargs.get("context")
        key = id(context) if context is not None else threading.get_ident()
        with self._lock:
            running = self._running.pop(key, None) or _Running(self._enforcer.stream(exempt=self._exempt), context)
            while len(self._running) >= MOST_STREAMS:
                del self._running[next(iter(self._running))]
            last = bool(kwargs.get("remainder"))
            result = self._feed(running, str(chunk or ""), last=last)
            if not last:
                self._running[key] = running
        return result

    def _feed(self, running: _Running, chunk: str, *, last: bool) -> ValidationResult | None:
        running.taken.append(chunk)
        pieces = [] if running.blocked else [running.stream.push(chunk)]
        if last and not running.blocked:
            pieces.append(running.stream.finish())
        for piece in pieces:
            running.released.append(piece.text)
            running.hits += piece.hits
            running.blocked = running.blocked or piece.blocked
        if running.blocked is None and not last and (running.stream.held or not any(running.taken)):
            return None
        text = "".join(running.taken)
        hits = tuple(running.hits)
        result = _result(text, "".join(running.released), hits, running.base, running.blocked)
        running.base += len(text)
        running.taken, running.released, running.hits = [], [], []
        return result


def _result(text: str, left: str, hits: tuple[Hit, ...], base: int, blocked: str | None) -> ValidationResult:
    """Return a result for a text that begins at `base` of its stream, and what is left of it."""
    if not hits and blocked is None:
        return PassResult(validated_chunk=text)
    rules = list(dict.fromkeys([hit.rule for hit in hits] + ([blocked] if blocked else [])))
    spans = [
        ErrorSpan(start=max(0, hit.start - base), end=min(len(text), hit.end - base), reason=f"rule {hit.rule}")
        for hit in hits
    ]
    word = "blocked by" if blocked else "found by"
    return FailResult(
        error_message=f"{word} {', '.join(rules)}", fix_value=left, error_spans=spans, validated_chunk=text
    )
