"""The Cedar evaluator: default deny, every decision with the policies that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    """A parsed policy set. Building it parses once; `decide` evaluates against fresh entities."""

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
        self._ids = {
            name: policy.get("annotations", {}).get("id", name)
            for name, policy in document.get("staticPolicies", {}).items()
        }

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

    def decide(
        self,
        principal: tuple[str, str],
        action: tuple[str, str],
        resource: tuple[str, str],
        context: Mapping[str, Any],
        entities: Sequence[Mapping[str, Any]],
    ) -> AccessDecision:
        """Evaluate one request; the three parts are (entity type, id). An error of evaluation denies."""
        request = {
            "principal": {"type": principal[0], "id": principal[1]},
            "action": {"type": action[0], "id": action[1]},
            "resource": {"type": resource[0], "id": resource[1]},
            "context": dict(context),
        }
        try:
            result = self._cedar.is_authorized(request, self._set, list(entities), self._schema)
        except (ValueError, TypeError) as error:
            return AccessDecision(False, (), (str(error).splitlines()[0],))
        diagnostics = result.diagnostics
        reasons = tuple(sorted(self._ids.get(name, name) for name in diagnostics.reasons))
        errors = tuple(str(problem) for problem in diagnostics.errors)
        return AccessDecision(bool(result.allowed) and not errors, reasons, errors)
