"""What would change: the same traffic through two bundles, text by text and request by request.

A text that passes both whole costs one scan each. Answers out of recordings are as they were released: what the old
bundle removed is not in them, so a bundle that removes less cannot be seen to do so there; prompts are whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from policies.access.authorize import Action, Authorizer, Caller, ModelState
from policies.authoring.texts import action_of
from policies.bundle import SIDES, Bundle, compile_bundle
from policies.enforcement.engine import Enforcer, Piece
from registry.errors import SpecError

if TYPE_CHECKING:
    from policies.endpoint.recording import Recorded

ACTION_OF: Mapping[str, Action] = {
    "chat": "chat", "responses": "chat", "completions": "complete", "embeddings": "embed", "models": "models",
}  # fmt: skip
STOPS = ("block", "abort")
EXAMPLE = '{"id": "a", "side": "input", "text": "...", "caller": "ada", "groups": ["members"]}'


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the traffic: `texts` are (side, channel, text). Without a caller, access is not compared."""

    id: str
    texts: tuple[tuple[str, str, str], ...]
    caller: Caller | None = None
    surface: str = "chat"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one bundle does with one text, or with a request (`allow` or `deny`, then `rules` are policies)."""

    action: str
    rules: tuple[str, ...] = ()
    spans: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One text, or one request's access (`side` `access`), that the two bundles judge differently."""

    id: str
    side: str
    channel: str
    before: Verdict
    after: Verdict
    text: str = ""

    @property
    def kind(self) -> str:
        """`access`, `block` (stopped by one bundle alone) or `other`."""
        if self.side == "access":
            return "access"
        return "block" if (self.before.action in STOPS) != (self.after.action in STOPS) else "other"

    def plain(self, *, show_text: bool = False) -> dict[str, Any]:
        """Return the change as plain data, without its text unless that is wanted."""
        sides = {
            name: {"action": one.action, "rules": list(one.rules), "spans": [list(span) for span in one.spans]}
            for name, one in (("a", self.before), ("b", self.after))
        }
        told = {"id": self.id, "side": self.side, "channel": self.channel, **sides}
        return {**told, "text": self.text} if show_text else told


@dataclass(slots=True)
class Difference:
    """Everything that changes, with totals: requests, texts and bytes seen, changes by kind, moves by action."""

    changes: list[Change] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)

    def counts(self, kind: str = "any") -> int:
        """Return how many changes are of a kind: `any`, `block` or `access`."""
        return len(self.changes) if kind == "any" else sum(change.kind == kind for change in self.changes)

    def lines(self, *, show_text: bool = False) -> list[str]:
        """Return it as lines for people."""
        out = []
        for change in self.changes:
            rules = f"{', '.join(change.before.rules) or '-'} -> {', '.join(change.after.rules) or '-'}"
            place = f"{change.side}{' ' + change.channel if change.channel else ''}"
            out.append(f"{change.id}  {place:<18} {change.before.action} -> {change.after.action}  ({rules})")
            spans = _spans(change.before) + " -> " + _spans(change.after)
            out += [f"    {spans}"] if change.side in SIDES else []
            out += [f"    {change.text!r}"] if show_text and change.text else []
        seen = f"{self.totals['requests']} requests, {self.totals['texts']} texts, {self.totals['bytes']} bytes"
        moves = [f"  {name.removeprefix('move ')}: {n}" for name, n in sorted(self.totals.items()) if "move " in name]
        return [*out, f"{seen}: {len(self.changes)} changes", *moves]


class Side:
    """One of the two bundles, ready to judge. Rules that are code are not run."""

    def __init__(self, bundle: Bundle) -> None:
        self._enforcer, self._authorizer = Enforcer(compile_bundle(bundle)), Authorizer(bundle)
        self._off = frozenset(rule.id for rule in self._enforcer.guard_rules)
        self._model = ModelState("model", "", "", "certified")
        self._rules = tuple(bundle.spec.rules)

    def judge(self, side: str, text: str, caller: Caller | None) -> Piece:
        """Return what a text becomes on a side; rules that the caller is exempt from do not apply."""
        exempt = self._off | (self._authorizer.exemptions(caller, self._model, self._rules) if caller else frozenset())
        check = self._enforcer.check_input if side == "input" else self._enforcer.check_output
        return check(text, exempt=exempt)

    def access(self, caller: Caller, action: Action) -> Verdict:
        """Return whether a caller may; `rules` are the policies that decided."""
        found = self._authorizer.decide(caller, action, self._model, {})
        return Verdict("allow" if found.allowed else "deny", tuple(sorted(found.reasons)))


def compare(first: Side, second: Side, traffic: Iterable[Asked]) -> Difference:
    """Return what the second bundle does otherwise than the first with the same traffic."""
    found = Difference()
    for asked in traffic:
        found.totals["requests"] += 1
        for change in _changes(first, second, asked, found.totals):
            found.changes.append(change)
            found.totals[f"move {change.before.action} -> {change.after.action}"] += 1
            found.totals[change.kind] += 1
    return found


def from_records(records: Iterable[Mapping[str, Any]]) -> Iterator[Asked]:
    """Yield the requests of `{id, side, text, caller?, groups?, attributes?, surface?}`. Raises SpecError."""
    for number, record in enumerate(records, 1):
        text, side, caller = record.get("text"), record.get("side", "output"), record.get("caller")
        if "id" not in record or not isinstance(text, str) or side not in SIDES:
            raise SpecError("a record needs `id`, `side` and a string `text`", line=number, hint=EXAMPLE)
        groups = frozenset(record.get("groups", ()))
        who = Caller(str(caller), groups, dict(record.get("attributes", {})), "") if caller is not None else None
        yield Asked(str(record["id"]), ((side, "", text),), who, str(record.get("surface", "chat")))


def from_recordings(recordings: Iterable[Recorded]) -> Iterator[Asked]:
    """Yield the requests that endpoints recorded."""
    for each in recordings:
        inputs = tuple(("input", str(number), text) for number, text in enumerate(each.inputs))
        outputs = tuple(("output", channel, text) for channel, text in each.outputs)
        caller = Caller(each.caller, frozenset(each.groups), dict(each.attributes), "") if each.caller else None
        yield Asked(each.request_id, inputs + outputs, caller, each.surface)


def _changes(first: Side, second: Side, asked: Asked, totals: Counter[str]) -> Iterator[Change]:
    action = ACTION_OF.get(asked.surface)
    if asked.caller is not None and action is not None:
        before, after = first.access(asked.caller, action), second.access(asked.caller, action)
        if before.action != after.action:
            yield Change(asked.id, "access", action, before, after)
    for side, channel, text in asked.texts:
        totals["texts"] += 1
        totals["bytes"] += len(text.encode("utf-8", "surrogatepass"))
        one, two = first.judge(side, text, asked.caller), second.judge(side, text, asked.caller)
        if one.text == two.text and one.hits == two.hits and one.blocked == two.blocked:
            continue
        yield Change(asked.id, side, channel, _verdict(one), _verdict(two), text)


def _verdict(piece: Piece) -> Verdict:
    rules = tuple(dict.fromkeys(hit.rule for hit in piece.hits))
    return Verdict(action_of(piece), rules, tuple((hit.start, hit.end, hit.rule) for hit in piece.hits))


def _spans(one: Verdict) -> str:
    return ", ".join(f"{start}:{end} {rule}" for start, end, rule in one.spans) or "nothing"
