"""Canaries: fixed prompts that the served endpoint is asked again and again, so that a changed model shows by itself.

Traffic may change while the model does not; the answers to the same prompts, asked greedily with one seed, may not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import orjson

from evals.drift.asking import Asked, ask
from registry.errors import NotFound, SpecError
from registry.protocols import Progress, silent
from registry.records import digest_of
from registry.workspace import Workspace

EVENT = "canaries.replayed"
REPEATS = 3
"""How often each canary is asked; two or more show whether the engine repeats itself."""
MOST_REPEATS = 5
BUILT_IN = (
    "Name the capital of France.",
    "What is 17 times 23? Answer with the number alone.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate into German: The meeting has been moved to Friday.",
    "List three primary colours, separated by commas.",
    "Explain in two sentences why the sky is blue.",
    "Return a JSON object with the keys name and age for a person of your choice.",
    "Summarise in one sentence: Water boils at 100 degrees Celsius at sea level and at less on a mountain.",
    "Correct the spelling: He recieved teh pacakge yesterdey.",
    "Continue the sequence: 2, 4, 8, 16,",
    "Is the number 91 a prime? Say yes or no and why.",
    "Write a polite refusal to an invitation for dinner.",
    "What does the SQL statement SELECT count(*) FROM orders return?",
    "Give a synonym of happy and use it in a sentence.",
    "How do I reset my password if I have lost access to my email?",
    "Tell me about yourself in one sentence.",
)
"""The canaries that are asked where no file is named."""


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of a canary file: an id and either `messages` (chat) or `prompt` (completion)."""

    id: str
    messages: list[dict[str, Any]] = []
    prompt: str = ""
    max_tokens: int = 48


@dataclass(frozen=True, slots=True)
class Replay:
    """All answers to a set of canaries: `answers` by canary id, in the order they came; `requests` are the receipts."""

    alias: str
    certificate: str
    canaries: str
    answers: Mapping[str, Sequence[Asked]]
    requests: tuple[str, ...] = field(default=())


def read_canaries(file: Path | None, *, chat: bool = True) -> list[Canary]:
    """Return the canaries of a JSONL file, or the built-in ones: as chats, or as completions for a model without chat.

    Raises:
        NotFound: no such file.
        SpecError: a line is no canary, asks nothing or both ways, or an id comes twice; or there are none.
    """
    if file is None:
        named = ((f"canary-{number:02}", text) for number, text in enumerate(BUILT_IN, start=1))
        return [
            Canary(name, messages=[{"role": "user", "content": text}]) if chat else Canary(name, prompt=text)
            for name, text in named
        ]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFound(f"no file `{file}`", hint='write one canary a line: {"id": ..., "prompt": ...}') from None
    found = [_canary(line, file, number) for number, line in enumerate(lines, start=1) if line.strip()]
    names = [canary.id for canary in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"canary `{twice[0]}` comes twice", file=str(file), hint="give each an id of its own")
    if not found:
        raise SpecError("no canary in the file", file=str(file), hint='write {"id": ..., "prompt": ...} on each line')
    return found


def _canary(line: str, file: Path, number: int) -> Canary:
    try:
        canary = msgspec.json.decode(line, type=Canary)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise SpecError(f"line {number}: {error}", file=str(file), hint="see `hallmark drift check --help`") from None
    if bool(canary.messages) == bool(canary.prompt):
        raise SpecError(f"line {number}: give `messages` or `prompt`", file=str(file), hint="one of the two")
    return canary


def digest(canaries: Sequence[Canary], repeats: int) -> str:
    """Return the digest of a set of canaries and how often each is asked: only equal sets are compared."""
    return digest_of({"canaries": [json.loads(msgspec.json.encode(canary)) for canary in canaries], "repeats": repeats})


def replay(
    ws: Workspace, alias: str, canaries: Sequence[Canary], *, url: str, key: str, actor: str,
    repeats: int = REPEATS, progress: Progress = silent,
) -> tuple[Replay | None, Replay]:  # fmt: skip
    """Ask an alias's endpoint every canary; return (reference, this replay) and record it as `canaries.replayed`.

    The reference is the first replay of the same canaries under the certificate that the alias points at now; None
    when this one is the first, and becomes it.

    Args:
        ws: the workspace; answers are kept as an artifact.
        alias: what is served.
        canaries: what to ask.
        url: the endpoint's `http://host:port/v1`.
        key: a caller's key.
        actor: who asks.
        repeats: how often each is asked, in rounds, from 2 to `MOST_REPEATS`.
        progress: told per request.

    Raises:
        NotFound: the alias was never promoted.
        SpecError: `repeats` is out of range.
        Refused: the endpoint does not take the key.
        EngineFailure: it does not answer, or answers for another certificate.
    """
    if not 2 <= repeats <= MOST_REPEATS:
        raise SpecError(f"{repeats} repeats", field="repeats", hint=f"from 2 to {MOST_REPEATS}")
    release = ws.release(alias)
    name = digest(canaries, repeats)
    reference = first_replay(ws, alias, release.certificate, name)
    answers: dict[str, list[Asked]] = {canary.id: [] for canary in canaries}
    bodies = [(canary.id, *_request(canary, alias)) for _ in range(repeats) for canary in canaries]
    for number, (ident, path, body) in enumerate(bodies, start=1):
        answers[ident].append(ask(url, key, path, body, certificate=release.certificate))
        progress("canaries", number, len(bodies), ident)
    requests = tuple(asked.receipt for given in answers.values() for asked in given)
    current = Replay(alias, release.certificate, name, answers, requests)
    kept = {ident: [asked.plain() for asked in given] for ident, given in answers.items()}
    blob = ws.artifacts.add_bytes(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS), "application/json")
    body = {"certificate": release.certificate, "candidate": release.candidate, "canaries": name, "answers": blob,
            "repeats": repeats, "requests": list(requests), "reference": reference is None}  # fmt: skip
    ws.record(EVENT, alias, body, actor=actor)
    return reference, current


def first_replay(ws: Workspace, alias: str, certificate: str, canaries: str) -> Replay | None:
    """Return the first recorded replay of a set of canaries under a certificate, or None."""
    rows = ws.store.query("SELECT body FROM event WHERE kind = ? AND subject = ? ORDER BY seq", [EVENT, alias])
    for row in rows:
        body = orjson.loads(row["body"])
        if (body["certificate"], body["canaries"]) == (certificate, canaries):
            kept = orjson.loads(ws.artifacts.read_bytes(body["answers"]))
            answers = {ident: [Asked(**asked) for asked in given] for ident, given in kept.items()}
            return Replay(alias, certificate, canaries, answers, tuple(body["requests"]))
    return None


def receipts(ws: Workspace, alias: str) -> list[str]:
    """Return the request ids of all replays: they are in the decision log, and are no traffic."""
    rows = ws.store.query("SELECT body FROM event WHERE kind = ? AND subject = ?", [EVENT, alias])
    return [request for row in rows for request in orjson.loads(row["body"])["requests"] if request]


def _request(canary: Canary, model: str) -> tuple[str, dict[str, Any]]:
    """Return path and body: greedy, one seed, so that nothing but the model decides the answer."""
    body: dict[str, Any] = {"model": model, "temperature": 0, "seed": 7, "max_tokens": canary.max_tokens}
    if canary.messages:
        return "/chat/completions", {**body, "messages": canary.messages}
    return "/completions", {**body, "prompt": canary.prompt}
