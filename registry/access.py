"""The Cedar evaluator: default deny, every decision with the policies that made it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from registry.errors import SpecError


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Whether a request is allowed; `reasons` are the `@id`s of the deciding policies. `errors` always deny."""

    allowed: bool
    reasons: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class CedarPolicies:
    """A parsed policy set. Building it parses once; `decide` evaluates against fresh entities, or prepared ones."""

    def __init__(self, policies: str, schema: str | None = None) -> None:
        """Parse. Raises SpecError with Cedar's own message when the text is not Cedar."""
        import cedarpy

        self._cedar = cedarpy
        self.text, self.schema = policies, schema
        try:
            self._set = cedarpy.PolicySet.from_str(policies)
            document = json.loads(cedarpy.policies_to_json_str(policies))
        except ValueError as error:
            raise SpecError(f"not valid Cedar: {str(error).splitlines()[0]}", hint="see the Cedar language") from None
        self._schema = None
        if schema is not None:
            try:
                self._schema = cedarpy.Schema.from_str(schema)
            except ValueError as error:
                raise SpecError(
                    f"not a Cedar schema: {str(error).splitlines()[0]}", hint="see the Cedar schema"
                ) from None
        self._static: dict[str, dict[str, Any]] = document.get("staticPolicies", {})
        self._ids = {name: policy.get("annotations", {}).get("id", name) for name, policy in self._static.items()}

    def validate(self) -> list[str]:
        """Return schema errors, one line each; empty means valid, or that there is no schema."""
        if self.schema is None:
            return []
        try:
            result = self._cedar.validate_policies(self.text, self.schema)
        except ValueError as error:
            return [str(error).splitlines()[0]]
        if result.validation_passed:
            return []
        return [f"{self._ids.get(problem.policy_id, problem.policy_id)}: {problem.error}" for problem in result.errors]

    def accepted(self, expressions: Sequence[str]) -> list[bool]:
        """Say of each policy text whether the schema accepts it: what it declares, asked in its own language.

        Raises SpecError when one of them is not a policy.
        """
        if self._schema is None:
            return [True] * len(expressions)
        text = "\n".join(expressions)
        try:
            self._cedar.PolicySet.from_str(text)
            result = self._cedar.validate_policies(text, self._schema)
        except ValueError as error:
            raise SpecError(f"not valid Cedar: {str(error).splitlines()[0]}", hint="see the Cedar language") from None
        wrong = {problem.policy_id for problem in result.errors}
        return [f"policy{number}" not in wrong for number in range(len(expressions))]

    def mentioned(self, variable: str) -> frozenset[str] | None:
        """Return the attributes of a variable (`context`, ...) that policies read; None when one reads it whole."""
        found: set[str] = set()
        for policy in self._static.values():
            for node in _nodes(policy.get("conditions", [])):
                if node.get("Var") == variable:
                    found.add(node.get("attr", ""))
        return None if "" in found else frozenset(found)

    def naming(self, action: str) -> CedarPolicies | None:
        """Return the permits that name an action together with every forbid; None when no permit names it.

        A permit for every action does not name one: what it allows is not stretched to an action that came later.
        """
        kept = {name: policy for name, policy in self._static.items() if policy["effect"] == "permit"}
        kept = {name: policy for name, policy in kept.items() if action in _actions(policy["action"])}
        if not kept:
            return None
        kept |= {name: policy for name, policy in self._static.items() if policy["effect"] == "forbid"}
        narrowed = copy(self)
        narrowed._static = kept
        document = {"templates": {}, "staticPolicies": kept, "templateLinks": []}
        narrowed._set = self._cedar.PolicySet.from_json_str(json.dumps(document))
        return narrowed

    def resources(self) -> frozenset[str] | None:
        """Return the ids of the resources that permits are for; None when one is not for a single resource."""
        permits = [policy["resource"] for policy in self._static.values() if policy["effect"] == "permit"]
        if any(scope["op"] != "==" or "entity" not in scope for scope in permits):
            return None
        return frozenset(str(scope["entity"]["id"]) for scope in permits)

    def entities(self, rows: Sequence[Mapping[str, Any]], base: Any = None) -> Any:
        """Return entities parsed once, for `decide`; with `base`, added to what it holds.

        Raises SpecError when they do not fit the schema.
        """
        try:
            text = json.dumps(list(rows))
            if base is not None:
                return base.with_added_json_str(text, self._schema)
            return self._cedar.Entities.from_json_str(text, self._schema)
        except (ValueError, TypeError) as error:
            raise SpecError(str(error).splitlines()[0], hint="compare with the Cedar schema") from None

    def decide(
        self,
        principal: tuple[str, str],
        action: tuple[str, str],
        resource: tuple[str, str],
        context: Mapping[str, Any],
        entities: Any,
    ) -> AccessDecision:
        """Evaluate one request; the three parts are (entity type, id). An error of evaluation denies.

        `entities` are rows in Cedar's JSON form, or what `entities` returned.
        """
        return self.decide_each(principal, action, [resource], context, entities)[0]

    def decide_each(
        self,
        principal: tuple[str, str],
        action: tuple[str, str],
        resources: Sequence[tuple[str, str]],
        context: Mapping[str, Any],
        entities: Any,
    ) -> list[AccessDecision]:
        """Evaluate the same question for each of several resources; as `decide`."""
        asked: dict[str, Any] = {
            "principal": {"type": principal[0], "id": principal[1]},
            "action": {"type": action[0], "id": action[1]},
        }
        try:
            asked["context"] = json.dumps(dict(context))
            requests = [{**asked, "resource": {"type": kind, "id": ident}} for kind, ident in resources]
            known = list(entities) if isinstance(entities, Sequence) else entities
            results = self._cedar.is_authorized_batch(requests, self._set, known, self._schema)
        except (ValueError, TypeError) as error:
            return [AccessDecision(False, (), (str(error).splitlines()[0],))] * len(resources)
        return [self._decision(result) for result in results]

    def _decision(self, result: Any) -> AccessDecision:
        diagnostics = result.diagnostics
        reasons = tuple(sorted(self._ids.get(name, name) for name in diagnostics.reasons))
        errors = tuple(str(problem) for problem in diagnostics.errors)
        return AccessDecision(bool(result.allowed) and not errors, reasons, errors)


def _actions(scope: Mapping[str, Any]) -> set[str]:
    """Return the ids of the actions that a policy's scope spells out."""
    named = [scope["entity"]] if "entity" in scope else scope.get("entities", [])
    return {str(each.get("id", each.get("__entity", {}).get("id", ""))) for each in named}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield `{"Var": name, "attr": attribute}` for every read of a variable, without `attr` where it is read whole."""
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)
    elif isinstance(tree, dict):
        if isinstance(tree.get("Var"), str):
            yield tree
            return
        for name, value in tree.items():
            left = value.get("left") if name in (".", "has") and isinstance(value, dict) else None
            if isinstance(left, dict) and isinstance(left.get("Var"), str):
                yield {**left, "attr": value.get("attr", "")}
            else:
                yield from _nodes(value)
