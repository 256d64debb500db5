"""What can be said of a bundle's Cedar text without deciding a request: ids, rules that exemptions name, dead permits.

A permit is called dead only where every request in its scope is in the scope of forbids without a condition.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from policies.bundle import Bundle

_START = re.compile(r"\b(permit|forbid)\s*\(")
_ASIDE = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*')
ANY = "*"


class Cedar:
    """The policies of a bundle as Cedar's own JSON, with the lines that they stand on."""

    def __init__(self, bundle: Bundle) -> None:
        import cedarpy

        self.text = bundle.access
        document = json.loads(cedarpy.policies_to_json_str(bundle.access))
        policies: dict[str, dict[str, Any]] = document.get("staticPolicies", {})
        order = sorted(policies, key=lambda name: int(name.removeprefix("policy")))
        self._policies = [policies[name] for name in order]
        code = _without_asides(self.text)
        starts = [self._line(found.start(1)) for found in _START.finditer(code)]
        self._lines = dict(enumerate(starts)) if len(starts) == len(self._policies) else {}

    def repeated(self) -> Iterator[tuple[str, int]]:
        """Yield (id, line) of each id that stands twice."""
        names = Counter(_name(policy) for policy in self._policies)
        for number, policy in enumerate(self._policies):
            name = _name(policy)
            if name and names[name] > 1:
                yield name, self._lines.get(number, 1)
                names[name] = 0

    def unnamed(self) -> Iterator[tuple[str, int]]:
        """Yield (`permit` or `forbid`, line) of each policy without an id."""
        for number, policy in enumerate(self._policies):
            if not _name(policy):
                yield policy["effect"], self._lines.get(number, 1)

    def named_rules(self) -> Iterator[tuple[str, str, int]]:
        """Yield (rule id, policy id, line) for each rule that a policy names."""
        for number, policy in enumerate(self._policies):
            for name in sorted(_rules(policy)):
                yield name, _name(policy), self._lines.get(number, 1)

    def shadowed(self) -> Iterator[tuple[str, tuple[str, ...], int]]:
        """Yield (id, ids of the forbids, line) of each permit that never decides, since forbids cover all of its scope.

        A forbid wins over any permit, and one without `when` and `unless` holds in all of its scope. Where the answer
        depends on what is a member of what, nothing is said.
        """
        forbids = [(number, policy) for number, policy in enumerate(self._policies) if _always_forbids(policy)]
        for number, policy in enumerate(self._policies):
            if policy["effect"] != "permit":
                continue
            found = [
                next((by for by, forbid in forbids if _covers(forbid, policy, action)), None)
                for action in _each_action(policy["action"])
            ]
            if found and None not in found:
                names = dict.fromkeys(self._said(by) for by in found if by is not None)
                yield self._said(number), tuple(names), self._lines.get(number, 1)

    def _said(self, number: int) -> str:
        """Return what a policy is called: its id, or where it stands."""
        return _name(self._policies[number]) or f"line {self._lines.get(number, 1)}"

    @property
    def exemptible(self) -> frozenset[str]:
        """Ids of the rules that somebody may be exempt from; `*` where a policy exempts without naming one."""
        found: set[str] = set()
        for policy in self._policies:
            if policy["effect"] == "permit" and "exempt" in _actions(policy):
                found |= _rules(policy) or {ANY}
        return frozenset(found)

    def _line(self, place: int) -> int:
        return self.text.count("\n", 0, place) + 1


def _name(policy: dict[str, Any]) -> str:
    return str(policy.get("annotations", {}).get("id") or "")


def _actions(policy: dict[str, Any]) -> set[str]:
    return {found["id"] for found in _entities(policy.get("action")) if found.get("type") == "Action"}


def _rules(policy: dict[str, Any]) -> set[str]:
    return {found["id"] for found in _entities(policy) if found.get("type") == "Rule"}


def _entities(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every entity that a part of a policy names."""
    if isinstance(value, dict):
        if set(value) == {"type", "id"}:
            yield value
        for item in value.values():
            yield from _entities(item)
    elif isinstance(value, list):
        for item in value:
            yield from _entities(item)


def _always_forbids(policy: dict[str, Any]) -> bool:
    return policy["effect"] == "forbid" and not policy["conditions"]


def _each_action(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """Return scopes of an action that are the given one together: `in [a, b]` is `in a` or `in b`."""
    listed = scope.get("entities")
    return [scope] if listed is None else [{"op": "in", "entity": each} for each in listed]


def _covers(forbid: dict[str, Any], permit: dict[str, Any], action: dict[str, Any]) -> bool:
    """Say whether a forbid's scope holds a permit's scope, as far as its `action` goes."""
    return (
        _wider(forbid["principal"], permit["principal"])
        and any(_wider(each, action) for each in _each_action(forbid["action"]))
        and _wider(forbid["resource"], permit["resource"])
    )


def _wider(wide: dict[str, Any], narrow: dict[str, Any]) -> bool:
    """Say whether whatever one constraint of a scope takes, the other takes too, whoever is a member of what.

    An entity is `in` itself.
    """
    one = narrow.get("entity") if narrow["op"] == "==" else None
    within = one or narrow.get("entity") or narrow.get("in", {}).get("entity")
    kind = one["type"] if one else narrow.get("entity_type")
    if wide["op"] == "All":
        return True
    if wide["op"] == "==":
        return one is not None and one == wide["entity"]
    if wide["op"] == "in":
        return within is not None and within == wide["entity"]
    inside = wide.get("in", {}).get("entity")
    return wide["op"] == "is" and kind == wide["entity_type"] and inside in (None, within)


def _without_asides(text: str) -> str:
    """Return the text with comments and strings blanked, so that places stay where they are."""
    return _ASIDE.sub(lambda found: " " * len(found.group()), text)
