"""guardrails-ai's server as a peer of the gateway benchmark: its own environment, the bundle's patterns as a validator.

Its hub of validators needs an account, so the validator is written here, in the way its documentation shows.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.environment import Peer

GUARDRAILS = Peer("guardrails", "guardrails-api", "guardrails.txt")
CONFIG = """
import json, re
from guardrails import Guard, OnFailAction
from guardrails.validators import FailResult, PassResult, Validator, register_validator

PATTERN = re.compile("|".join(f"(?:{{pattern}})" for pattern in json.loads({patterns!r})))

@register_validator(name="benchmark/patterns", data_type="string")
class Patterns(Validator):
    def validate(self, value, metadata=None):
        cleaned = PATTERN.sub("[REDACTED]", value)
        return PassResult() if cleaned == value else FailResult(error_message="a pattern", fix_value=cleaned)

guard = Guard(id="filter", name="filter")
guard.use(Patterns(on_fail=OnFailAction.FIX), on="messages")
guard.use(Patterns(on_fail=OnFailAction.FIX))
"""


def guardrails_config(folder: Path, bundle: Path) -> Path:
    """Write a configuration with the guard `filter`; return the file."""
    from policies.bundle import load
    from policies.enforcement.rules import RegexRule

    patterns = [rule.pattern for rule in load(bundle).spec.rules if isinstance(rule, RegexRule)]
    path = folder / "guards.py"
    path.write_text(CONFIG.format(patterns=json.dumps(patterns)))
    return path


def guardrails_command(config: Path, port: int) -> list[str]:
    """Return how the server is started."""
    return [str(GUARDRAILS.program), "start", "--config", str(config), "--port", str(port)]
