"""Who may ask which model for what: a request to the endpoint as Cedar entities, decided by the bundle's access rules.

Entities: `User` (attribute `key_id`; every attribute of the caller as a tag, a set of strings) in `Group`s, `Model`
(`status`, `candidate`, `certificate`, `labels`, and where the schema declares them `expires` and `engine`), and for
exemptions `Rule` (`kind`, `type`, `side`). Context: `CONTEXT` below. An error of any kind denies.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from registry.access import AccessDecision, CedarPolicies
from registry.errors import SpecError

if TYPE_CHECKING:
    from policies.enforcement.rules import AnyRule

logger = logging.getLogger(__name__)

Action = Literal["chat", "complete", "embed", "models"]
ACTIONS: tuple[Action, ...] = ("chat", "complete", "embed", "models")
EXEMPT = "exempt"
"""The action on a `Rule` that lets a caller past it."""
CONTEXT: dict[str, Any] = {
    "decoding": [], "stream": False, "max_tokens": 0, "tools": False, "purpose": "", "data_class": "", "hour": 0,
    "weekday": 1, "surface": "", "tool_names": [],
}  # fmt: skip
"""What an access rule may ask of a request, with defaults. `decoding` is the set of decode-time constraints that the
caller sent: `structured_outputs.choice`, `structured_outputs.json`, `structured_outputs.regex`, `response_format`.
`hour` (0 to 23) and `weekday` (Monday is 1) are those of UTC, told here unless they are given."""
MOST_REMEMBERED, MOST_KNOWN = 65_536, 4096
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `attributes` are what the key or token says of them; values are strings, numbers, or lists of them.

    `fingerprint` tells apart all that access rules may see of a caller; empty when the attributes cannot be told.
    """

    name: str
    groups: frozenset[str] = frozenset()
    attributes: dict[str, Any] = field(default_factory=dict)
    key_id: str = ""
    fingerprint: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            told = json.dumps([self.name, sorted(self.groups), self.attributes, self.key_id], sort_keys=True)
        except (TypeError, ValueError):
            told = ""
        object.__setattr__(self, "fingerprint", told)


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is served. `status` is `certified`, `permit` (an evaluation), or whatever else it fell to.

    `expires` is the moment (epoch seconds) at which certificate or permit ends, 0 without one.
    """

    name: str
    candidate: str
    certificate: str
    status: str
    labels: tuple[str, ...] = ()
    expires: int = 0
    engine: str = ""


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
        """What the bundle is called in records."""


class Authorizer:
    """Decides with one bundle; remembers decisions by everything they depend on, and by nothing else.

    A value that no policy reads is neither part of what is remembered nor passed to Cedar: its default is.
    """

    def __init__(self, bundle: AccessRules, wall: Callable[[], float] = time.time) -> None:
        """Parse once. Raises SpecError when policies or schema are not Cedar."""
        self._wall = wall
        self._policies = CedarPolicies(bundle.access, bundle.schema)
        self._exempting = self._policies.naming(EXEMPT)
        self._exemptible = self._exempting.resources() if self._exempting is not None else NOTHING
        self._declared = self._declarations()
        mentioned = self._policies.mentioned("context")
        self._read = tuple(
            (name, type(default), default)
            for name, default in CONTEXT.items()
            if (mentioned is None or name in mentioned) and any(name in each for each in self._declared.values())
        )
        self._timed = any(name in ("hour", "weekday") for name, _, _ in self._read)
        self._model: ModelState | None = None
        self._rules: Sequence[AnyRule] = ()
        self._stage: Any = None
        self._forget()

    def decide(self, caller: Caller, action: Action, model: ModelState, context: Mapping[str, Any]) -> AccessDecision:
        """Return whether a caller may; `reasons` are the `@id`s of the policies that decided, empty for a default deny.

        Keys of `context` other than those of `CONTEXT` are left out, absent ones take their defaults.
        """
        try:
            if model is not self._model and model != self._model:
                self._meet(model)
            if self._timed:
                context = {**self._moment(), **context}
            key = (caller.fingerprint, action, *_told(context, self._read))
            known = self._memo.get(key)
            if known is None:
                known = self._evaluate(caller, action, model, key[2:])
                if len(self._memo) >= MOST_REMEMBERED:
                    self._memo.clear()
                self._memo[key] = known
        except Exception as error:  # noqa: BLE001 - whatever goes wrong while deciding, the answer is no
            logger.warning("access decision for `%s` failed: %s", caller.name, error)
            return AccessDecision(False, (), (f"{type(error).__name__}: {error}",))
        return known

    def exemptions(self, caller: Caller, model: ModelState, rules: Sequence[AnyRule]) -> frozenset[str]:
        """Return the ids of the rules that this caller is exempt from.

        A permit counts only when it names the action `exempt`; a forbid wins; what fails to evaluate exempts nothing.
        """
        if self._exempting is None:
            return NOTHING
        try:
            if model is not self._model and model != self._model:
                self._meet(model)
            if rules is not self._rules:
                self._exempted.clear()
                self._stage = None
                self._rules = rules
            known = self._exempted.get(caller.fingerprint)
            if known is None:
                known = self._exempt(self._exempting, caller, model)
                if len(self._exempted) >= MOST_KNOWN:
                    self._exempted.clear()
                self._exempted[caller.fingerprint] = known
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, every rule applies
            logger.warning("exemptions of `%s` failed: %s", caller.name, error)
            return NOTHING
        return known

    def unfit(self) -> str:
        """Return why the schema does not fit the endpoint's requests, or ``: every declared action is tried."""
        if not self._declared:
            return "it declares none of the endpoint's actions"
        probe, told = (
            Caller("probe", frozenset({"probe"}), {"probe": "probe"}, "probe"),
            [each[2] for each in self._read],
        )
        known: list[Any] = [("Model", [self._model_row(_PROBE)]), ("User", self._people(probe))]
        if self._exempting is not None:
            known.append(("Rule", [self._rule_row("probe", "regex", "probe", "both", _PROBE)]))
        for kind, rows in known:
            try:
                self._policies.entities(rows)
            except SpecError:
                return f"entity `{kind}` has attributes, parents or tags that the endpoint does not give"
        found = [self._evaluate(probe, action, _PROBE, tuple(told)) for action in ACTIONS if action in self._declared]
        if self._exempting is not None:
            stage = self._policies.entities([row for _, rows in known for row in rows])
            asked = ("User", probe.name), ("Action", EXEMPT), [("Rule", "probe")]
            found += self._exempting.decide_each(*asked, {}, stage)
        return next((error for decision in found for error in decision.errors), "")

    # ---- what the bundle's schema declares -------------------------------------------------------------------------

    def _declarations(self) -> dict[str, frozenset[str]]:
        """Return the context attributes of each action that the schema declares, and learn about entities.

        The schema is asked by policies that are wrong exactly where an attribute is declared, required or not.
        """
        model_reads = {name: _misused("chat", "resource", name) for name in ("expires", "engine")}
        rule_reads = {name: _misused(EXEMPT, "resource", name) for name in ("kind", "type", "side")}
        context_reads = {(a, name): _misused(a, "context", name) for a in ACTIONS for name in CONTEXT}
        known_actions = {action: f'permit (principal, action == Action::"{action}", resource);' for action in ACTIONS}
        inside = f'permit (principal, action == Action::"{EXEMPT}", resource in Model::"m");'
        probes = [*model_reads.values(), *rule_reads.values(), *context_reads.values(), *known_actions.values(), inside]
        fits = dict(zip(probes, self._policies.accepted(probes), strict=True))
        self._model_attributes = tuple(name for name, probe in model_reads.items() if not fits[probe])
        self._rule_attributes = tuple(name for name, probe in rule_reads.items() if not fits[probe])
        self._rules_in_models = fits[inside]
        return {
            action: frozenset(name for name in CONTEXT if not fits[context_reads[action, name]])
            for action in ACTIONS
            if fits[known_actions[action]]
        }

    # ---- one evaluation --------------------------------------------------------------------------------------------

    def _evaluate(self, caller: Caller, action: Action, model: ModelState, told: tuple[Any, ...]) -> AccessDecision:
        declared = self._declared.get(action, NOTHING)
        read = {name: value for (name, _, _), value in zip(self._read, told, strict=True)}
        context = {name: read.get(name, default) for name, default in CONTEXT.items() if name in declared}
        return self._policies.decide(
            ("User", caller.name), ("Action", action), ("Model", model.name), context, self._entities_of(caller, model)
        )

    def _exempt(self, policies: CedarPolicies, caller: Caller, model: ModelState) -> frozenset[str]:
        asked = [r for r in self._rules if self._exemptible is None or r.id in self._exemptible]
        if self._stage is None:
            rows = [self._rule_row(rule.id, rule.kind, rule.type, rule.side, model) for rule in asked]
            self._stage = policies.entities([self._model_row(model), *rows])
        stage = policies.entities(self._people(caller), self._stage)
        resources = [("Rule", rule.id) for rule in asked]
        found = policies.decide_each(("User", caller.name), ("Action", EXEMPT), resources, {}, stage)
        return frozenset(rule.id for rule, decision in zip(asked, found, strict=True) if decision.allowed)

    def _entities_of(self, caller: Caller, model: ModelState) -> Any:
        """Return caller, groups and model as Cedar's, prepared once for each caller."""
        if model != self._model:
            return self._policies.entities([self._model_row(model), *self._people(caller)])
        found = self._callers.get(caller.fingerprint)
        if found is None:
            found = self._policies.entities(self._people(caller), self._base)
            if len(self._callers) >= MOST_KNOWN:
                self._callers.clear()
            self._callers[caller.fingerprint] = found
        return found

    def _people(self, caller: Caller) -> list[dict[str, Any]]:
        if not caller.fingerprint:
            raise TypeError("the caller's attributes are not strings, numbers or lists of them")
        groups = [{"type": "Group", "id": name} for name in sorted(caller.groups)]
        user = {
            "uid": {"type": "User", "id": caller.name},
            "attrs": {"key_id": caller.key_id},
            "parents": groups,
            "tags": {name: _strings(value) for name, value in caller.attributes.items()},
        }
        return [user, *({"uid": group, "attrs": {}, "parents": []} for group in groups)]

    def _model_row(self, model: ModelState) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "status": model.status,
            "candidate": model.candidate,
            "certificate": model.certificate,
            "labels": sorted(model.labels),
        }
        attributes |= {name: getattr(model, name) for name in self._model_attributes}
        return {"uid": {"type": "Model", "id": model.name}, "attrs": attributes, "parents": []}

    def _rule_row(self, ident: str, kind: str, type_: str, side: str, model: ModelState) -> dict[str, Any]:
        facts = {"kind": kind, "type": type_, "side": side}
        parents = [{"type": "Model", "id": model.name}] if self._rules_in_models else []
        attributes = {name: facts[name] for name in self._rule_attributes}
        return {"uid": {"type": "Rule", "id": ident}, "attrs": attributes, "parents": parents}

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._memo: dict[tuple[Any, ...], AccessDecision] = {}
        self._callers: dict[str, Any] = {}
        self._exempted: dict[str, frozenset[str]] = {}

    def _meet(self, model: ModelState) -> None:
        """Take another state of the model: what was remembered of the one before is gone."""
        self._forget()
        self._stage, self._base = None, self._policies.entities([self._model_row(model)])
        self._model = model

    def _moment(self) -> dict[str, int]:
        hours = int(self._wall()) // 3600
        return {"hour": hours % 24, "weekday": (hours // 24 + 3) % 7 + 1}


_PROBE = ModelState("probe", "", "", "certified", ("probe",))


def _told(context: Mapping[str, Any], read: Sequence[tuple[str, type, Any]]) -> list[Any]:
    """Return the values of the context that rules read, as they are remembered; raises TypeError for a wrong type."""
    told = []
    for name, kind, default in read:
        value = context.get(name, default)
        if kind is list:
            value = tuple(sorted(value)) if value else ()
        elif type(value) is not kind:
            raise TypeError(f"`{name}` is {type(value).__name__}, not {kind.__name__}")
        told.append(value)
    return told


def _misused(action: str, variable: str, name: str) -> str:
    """Return a policy of an action that is invalid exactly where the variable may have the attribute."""
    return f'permit (principal, action == Action::"{action}", resource) when {{ {variable} has {name} && "text" }};'


def _strings(value: Any) -> list[str]:
    """Return an attribute as the sorted strings of a Cedar set."""
    values: Iterable[Any] = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return sorted({item if isinstance(item, str) else json.dumps(item) for item in values})
