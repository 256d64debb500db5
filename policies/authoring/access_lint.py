"""What can be said of a bundle's Cedar text without deciding a request: ids, and the rules that exemptions name."""

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


def _without_asides(text: str) -> str:
    """Return the text with comments and strings blanked, so that places stay where they are."""
    return _ASIDE.sub(lambda found: " " * len(found.group()), text)
