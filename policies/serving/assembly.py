"""The shared side of an endpoint (callers, decision log, limits), and what a desk is told of its release."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from policies.access.authorize import ModelState
from policies.access.callers import Callers
from policies.access.credentials import callers_of
from policies.access.limits import Limits
from policies.endpoint.audit import DecisionLog
from policies.endpoint.desk import Front
from policies.endpoint.exchange import Served
from policies.endpoint.hash_key import hash_key
from policies.endpoint.metrics import Metrics
from policies.serving.fleet import ENGINE_MODEL, adapter_name, own_version
from policies.serving.operations import observers_of
from policies.serving.plan import READY_SECONDS, UNVERIFIED, Plan, check_plan
from policies.serving.proof import Target, Verified, verify
from policies.wire import fim
from registry.errors import Tampered
from registry.records import Candidate, sha256
from registry.workspace import Workspace

__all__ = ["ENGINE_MODEL", "READY_SECONDS", "Plan", "Verified", "check_plan", "own_version", "verify"]

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def front_of(ws: Workspace, plan: Plan, stack: ExitStack) -> Front:
    """Return what all releases of an endpoint share; `stack` closes it."""
    callers, metrics = callers_for(ws, plan), Metrics()
    limits = Limits(ws.work("budgets") / f"{plan.name.replace('/', '-')}.budgets") if plan.operations else Limits()
    stack.callback(limits.close)
    observers = observers_of(ws, metrics, stack) if plan.operations else ()
    decisions = DecisionLog(ws.journal.write, endpoint=plan.name, mode=plan.log_mode)
    stack.callback(decisions.close)
    return Front(callers, decisions, hash_key(ws), limits, metrics, plan.bounds, observers)


def callers_for(ws: Workspace, plan: Plan) -> Callers:
    """Return who may call: the workspace's callers and those of this run; tokens and certificates where it stays."""
    if plan.operations:
        return callers_of(ws, plan.extra_callers)
    return Callers(lambda: [*ws.callers(), *plan.extra_callers])


def served_of(plan: Plan, target: Target, found: Verified, weights: Path | None) -> Served:
    """Return what a desk says of its release; without `weights`, behind an unverified engine, it claims none."""
    candidate = found.candidate
    if weights is None:
        return Served(
            plan.name, target.name, plan.remote.model or target.name if plan.remote else "", UNVERIFIED, "",
            candidate.bundle, _system_prompt(candidate), _defaults(candidate),
        )  # fmt: skip
    return Served(
        plan.name, target.name, adapter_name(candidate.adapter), candidate.id, found.certificate, candidate.bundle,
        _system_prompt(candidate), _defaults(candidate),
        control_tokens=control_tokens_of(weights), fim=fim.tokens_of(weights),
    )  # fmt: skip


def state_of(plan: Plan, target: Target, found: Verified) -> ModelState:
    """Return what access rules may know of a release: certified, under a permit, or nothing that was proven."""
    candidate = found.candidate
    if plan.remote is not None:
        return ModelState(target.name, UNVERIFIED, "", UNVERIFIED, engine=UNVERIFIED)
    expires = int(found.expires.timestamp())
    return ModelState(
        target.name, candidate.id, found.certificate, found.status, expires=expires, engine=candidate.engine
    )


def control_tokens_of(folder: Path) -> tuple[str, ...]:
    """Return the tokens that `tokenizer.json` calls special: what a chat template marks turns with.

    Raises Tampered when the file is none, since nobody could then tell them from text.
    """
    try:
        added = json.loads((folder / "tokenizer.json").read_bytes()).get("added_tokens", [])
        return tuple(str(token["content"]) for token in added if token.get("special"))
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        hint = "the tokenizer must be a Hugging Face `tokenizer.json`"
        raise Tampered(f"`tokenizer.json` cannot be read: {error}", hint=hint) from None


def _system_prompt(candidate: Candidate) -> str:
    """Return the system prompt; raises Tampered when the text is not the one the candidate names."""
    text = str(candidate.generation.get("system_prompt", ""))
    if text and sha256(text.encode()) != candidate.system_prompt:
        raise Tampered("the candidate's system prompt is not the one it names", hint="create the candidate again")
    return text


def _defaults(candidate: Candidate) -> dict[str, Any]:
    """Return the generation defaults in the request's terms."""
    generation = candidate.generation
    defaults = {name: generation[name] for name in SAMPLING if generation.get(name) is not None}
    if generation.get("max_new_tokens") is not None:
        defaults["max_tokens"] = generation["max_new_tokens"]
    if generation.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults
