"""The endpoints an evaluation asks: the guarded one under a permit, a bare engine, an outside URL, and the judges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from governance import candidates, permits
from governance.starting import StartingEndpoint
from registry.errors import NotFound, SpecError
from registry.protocols import GuardedEndpoint, Progress
from registry.records import Asset, Candidate
from registry.workspace import Workspace

if TYPE_CHECKING:
    from evals.suite import Judge, SuiteSpec


@dataclass(frozen=True, slots=True)
class Outside:
    """An OpenAI-compatible endpoint that the user named; what answers there is not verified."""

    base_url: str
    api_key: str = "none"
    model: str = ""
    permit: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Do nothing: it was running before and goes on."""


@contextmanager
def open_endpoints(
    ws: Workspace, candidate: Asset, spec: SuiteSpec, suite: str, *, evaluator: str, passphrase: bytes | None,
    outside: Outside | None, progress: Progress,
) -> Iterator[dict[str, GuardedEndpoint]]:  # fmt: skip
    """Yield what the KPIs of a suite ask, by name: `guarded`, `vllm`, `url`, `judge:<name>`; each starts on first use.

    Raises NotFound for a judge that is not there, SpecError for a judge's key that is not set.
    """
    found: dict[str, GuardedEndpoint] = {}
    with ExitStack() as stack:

        def add(name: str, start: Callable[[], GuardedEndpoint]) -> None:
            found[name] = StartingEndpoint(start)
            stack.callback(found[name].close)

        asked = {kpi.endpoint for kpi in spec.kpis}
        if "guarded" in asked:
            add("guarded", lambda: _guarded(ws, candidate.id, suite, evaluator, passphrase, progress))
        if "vllm" in asked:
            add("vllm", lambda: _bare(ws, candidate.id, "vllm", progress))
        if outside is not None:
            found["url"] = outside
        for name in dict.fromkeys(kpi.judge for kpi in spec.kpis if kpi.judge):
            judge = spec.judges[name]
            if judge.url:
                found[f"judge:{name}"] = outside_url(judge.url, judge.model, judge.api_key_env)
            else:
                ident = _judge_candidate(ws, name, judge)
                add(f"judge:{name}", lambda ident=ident: _bare(ws, ident, "", progress))  # type: ignore[misc]
        yield found


def _guarded(
    ws: Workspace, candidate: str, suite: str, evaluator: str, passphrase: bytes | None, progress: Progress
) -> GuardedEndpoint:
    from policies.serve import Endpoint

    permit = permits.issue(ws, candidate, suite, actor=evaluator, passphrase=passphrase)
    return Endpoint.start(ws, permit=permit, progress=progress)


def _bare(ws: Workspace, candidate: str, kind: str, progress: Progress) -> GuardedEndpoint:
    from policies.serving.bare import BareEngine

    return BareEngine.start(ws, ws.get(candidate, Candidate), kind=kind, progress=progress)


def _judge_candidate(ws: Workspace, name: str, judge: Judge) -> str:
    with suppress(NotFound, SpecError):  # no alias: it may be a version or a candidate
        return ws.release(judge.candidate).candidate
    try:
        return candidates.existing_candidate(ws, judge.candidate).id
    except NotFound:
        raise NotFound(f"judge `{name}`: no candidate `{judge.candidate}`", hint="name a version or an alias") from None


def outside_url(url: str, model: str = "", api_key_env: str = "") -> Outside:
    """Return the endpoint at a URL. Raises SpecError for what is no HTTP address, or a key that is not set."""
    if not url.startswith(("http://", "https://")):
        raise SpecError(f"`{url}` is no HTTP address", field="url", hint="write `http://127.0.0.1:8001/v1`")
    return Outside(url.rstrip("/"), _key(api_key_env), model)


def _key(variable: str) -> str:
    if not variable:
        return "none"
    key = os.environ.get(variable, "")
    if not key:
        raise SpecError(f"`{variable}` is not set", field="api_key_env", hint="put the endpoint's key there")
    return key
