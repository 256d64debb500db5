"""Everything a caller says, put through the input rules before the engine hears of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from policies.endpoint.answer import rule_ids
from policies.wire.refusal import blocked
from policies.wire.request import Asked, hidden_texts, names, rewrite

if TYPE_CHECKING:
    from policies.endpoint.desk import Desk, GuardRunner
    from policies.endpoint.exchange import Exchange
    from policies.guarding.guards import GuardOutcome

GUARD_SECONDS = 120.0
"""The rules' own deadlines are shorter; this one ends a queue."""


async def validated(guards: GuardRunner, text: str, exempt: frozenset[str]) -> GuardOutcome:
    """Return what validators say of a text; those of rules in `exempt` are left out."""
    if exempt:
        return await guards.validate(text, GUARD_SECONDS, exempt=exempt)
    return await guards.validate(text, GUARD_SECONDS)


class InputCheck:
    """The input rules on one request, less those that its caller is exempt from. What a rule changes stays changed."""

    def __init__(self, desk: Desk, exchange: Exchange, exempt: frozenset[str]) -> None:
        self._desk, self._exchange, self._exempt = desk, exchange, exempt
        self._texts: list[str] = []
        self._stopped: list[str] = []
        self._changed = False

    def check(self, request: Asked, key: bytes) -> None:
        """Mask in place, note size and keyed hash of what arrived; raises Refusal where a rule blocks."""
        self._refuse_control(request)
        rewrite(request, self._text, self._pass)
        self._check_names(names(request))
        self._exchange.note_input(self._texts, key)
        if self._stopped:
            raise blocked(list(dict.fromkeys(self._stopped)), "request")
        if self._changed:
            self._refuse_control(request)  # what is left may have joined

    async def validate(self, request: Asked, guards: GuardRunner) -> None:
        """Run the validators of the input side over every text; what they replace meets the input rules again."""
        seen: dict[str, str] = {}

        def collect(text: str) -> str:
            return seen.setdefault(text, text)

        rewrite(request, collect)
        for text in [text for text in seen if text]:
            outcome = await validated(guards, text, self._exempt)
            if outcome.ok:
                continue
            self._exchange.hit([outcome.rule])
            if outcome.action == "block":
                raise blocked([outcome.rule], "request")
            self._note_change()
            seen[text] = self._pass(outcome.text)
        if self._stopped:
            raise blocked(list(dict.fromkeys(self._stopped)), "request")
        rewrite(request, lambda text: seen.get(text, text))
        if self._changed:
            self._refuse_control(request)

    def _refuse_control(self, request: Asked) -> None:
        """Refuse control tokens of the model's tokenizer, wherever in the request they are."""
        control = self._desk.control
        if not control:
            return
        control.check(msgspec.json.encode(request))
        for text in hidden_texts(request):
            control.check_text(text)

    def _check_names(self, found: list[str]) -> None:
        """Block what an input rule would hide in a name or id."""
        enforcer, exempt = self._desk.enforcer, self._exempt
        joined = enforcer.check_input("\n".join(found), exempt=exempt) if found else None
        if joined is None or not (joined.hits or joined.blocked):
            return
        for name in found:
            self._stopped += rule_ids(enforcer.check_input(name, exempt=exempt))

    def _note_change(self) -> None:
        self._changed, self._exchange.action = True, "redact"

    def _text(self, text: str) -> str:
        self._texts.append(text)
        return self._pass(text)

    def _pass(self, text: str) -> str:
        piece = self._desk.enforcer.check_input(text, exempt=self._exempt)
        if piece.blocked:
            self._stopped.append(piece.blocked)
        elif piece.hits:
            self._note_change()
        if piece.hits or piece.blocked:
            self._exchange.hit(rule_ids(piece))
        return piece.text
