"""Who may ask which model for what: a request to the endpoint as Cedar entities, decided by the bundle's access rules.

Entities: `User` (attribute `key_id`; every attribute of the caller as a tag, a set of strings) in `Group`s, and
`Model` (`status`, `candidate`, `certificate`, `labels`). Context: `CONTEXT` below. An error of any kind denies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from registry.access import AccessDecision, CedarPolicies

logger = logging.getLogger(__name__)

Action = Literal["chat", "complete", "models"]
ACTIONS: tuple[Action, ...] = ("chat", "complete", "models")
CONTEXT: dict[str, Any] = {"decoding": [], "stream": False, "max_tokens": 0, "tools": False}
"""What an access rule may ask of a request, with defaults. `decoding` is the set of decode-time constraints that the
caller sent: `structured_outputs.choice`, `structured_outputs.json`, `structured_outputs.regex`, `response_format`."""
MOST_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `attributes` are what the key or token says of them; values are strings, numbers, or lists of them."""

    name: str
    groups: frozenset[str] = frozenset()
    attributes: dict[str, Any] = field(default_factory=dict)
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is served. `status` is `certified`, `permit` (an evaluation), or whatever else it fell to."""

    name: str
    candidate: str
    certificate: str
    status: str
    labels: tuple[str, ...] = ()


class AccessRules(Protocol):
    """The part of a bundle that decides access."""

    @property
    def access(self) -> str:
        """Cedar policies."""

    @property
    def schema(self) -> str:
        """Their Cedar schema."""

    @property
    def digest(self) -> str:
        """What a remembered decision is bound to."""


class Authorizer:
    """Decides with one bundle; remembers decisions by everything they depend on."""

    def __init__(self, bundle: AccessRules) -> None:
        """Parse once. Raises SpecError when policies or schema are not Cedar."""
        self._digest = bundle.digest
        self._policies = CedarPolicies(bundle.access, bundle.schema)
        self._memo: dict[tuple[Any, ...], AccessDecision] = {}

    def decide(self, caller: Caller, action: Action, model: ModelState, context: Mapping[str, Any]) -> AccessDecision:
        """Return whether a caller may; `reasons` are the `@id`s of the policies that decided, empty for a default deny.

        Keys of `context` other than those of `CONTEXT` are left out, absent ones take their defaults.
        """
        try:
            asked = request_context(context)
            key = (
                self._digest, caller.name, caller.groups, caller.key_id, json.dumps(caller.attributes, sort_keys=True),
                action, model, json.dumps(asked, sort_keys=True),
            )  # fmt: skip
            known = self._memo.get(key)
            if known is None:
                known = self._evaluate(caller, action, model, asked)
                if len(self._memo) >= MOST_REMEMBERED:
                    self._memo.clear()
                self._memo[key] = known
        except Exception as error:  # noqa: BLE001 - whatever goes wrong while deciding, the answer is no
            logger.warning("access decision for `%s` failed: %s", caller.name, error)
            return AccessDecision(False, (), (f"{type(error).__name__}: {error}",))
        return known

    def _evaluate(self, caller: Caller, action: Action, model: ModelState, context: dict[str, Any]) -> AccessDecision:
        user, served = {"type": "User", "id": caller.name}, {"type": "Model", "id": model.name}
        groups = [{"type": "Group", "id": name} for name in sorted(caller.groups)]
        entities: list[dict[str, Any]] = [
            {
                "uid": user,
                "attrs": {"key_id": caller.key_id},
                "parents": groups,
                "tags": {name: _strings(value) for name, value in caller.attributes.items()},
            },
            {
                "uid": served,
                "attrs": {
                    "status": model.status,
                    "candidate": model.candidate,
                    "certificate": model.certificate,
                    "labels": sorted(model.labels),
                },
                "parents": [],
            },
            *({"uid": group, "attrs": {}, "parents": []} for group in groups),
        ]
        return self._policies.decide(
            ("User", caller.name), ("Action", action), ("Model", model.name), context, entities
        )


def request_context(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the context of a request with defaults filled in and nothing else in it."""
    context = {name: given.get(name, default) for name, default in CONTEXT.items()}
    context["decoding"] = sorted(context["decoding"])
    return context


def _strings(value: Any) -> list[str]:
    """Return an attribute as the sorted strings of a Cedar set."""
    values = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return sorted({item if isinstance(item, str) else json.dumps(item) for item in values})
