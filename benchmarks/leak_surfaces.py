"""Texts for `leak.py` through the endpoint's own answers: every surface and text channel, interleaved."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson

from policies.endpoint.answer import StreamedAnswer
from policies.enforcement.engine import Enforcer
from policies.enforcement.json_stream import check_json
from policies.wire.frames import ChunkFrames
from policies.wire.responses_stream import ResponseFrames

SURFACES = ("chat", "completions", "responses")
TOOLS = frozenset({"look"})
DELTAS = {
    "response.output_text.delta": "content",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "tool:0",
}


def channels_of(surface: str, texts: list[str], rng: random.Random) -> dict[str, str]:
    """Return what is said on each channel of an answer; tool arguments are JSON that says a text, with escapes."""
    if surface == "completions":
        return {"text": texts[0]}
    names = rng.sample(["content", "reasoning", "tool:0"], rng.randint(1, 3))
    said = dict(zip(names, texts, strict=False))
    if "tool:0" in said:
        said["tool:0"] = json.dumps({"q": said["tool:0"], "n": [1, True]}, ensure_ascii=rng.random() < 0.5)
    return said


def stream(enforcer: Enforcer, surface: str, pieces: list[tuple[str, str]]) -> tuple[dict[str, str], bool]:
    """Return what a caller reads on each channel when the engine says these pieces, and whether a rule stopped it."""
    frames = (
        ResponseFrames("hr-1", "m")
        if surface == "responses"
        else ChunkFrames(surface, "hr-1", "m", include_usage=False)
    )
    kind = "completions" if surface == "completions" else "chat"
    answer = StreamedAnswer(enforcer, kind, frames, TOOLS)
    wire, named = [], False
    for channel, piece in pieces:
        wire.append(answer.feed(_payload(kind, channel, piece, first=channel == "tool:0" and not named)))
        named = named or channel == "tool:0"
        if answer.over:
            break
    stopped = answer.over
    if not stopped:
        wire.append(answer.feed(_payload(kind, "content", "", finish="stop")))
        stopped = answer.over
        if not stopped:
            wire.append(answer.feed(b"[DONE]"))
    return _read(surface, b"".join(wire)), stopped


def whole(enforcer: Enforcer, said: dict[str, str]) -> dict[str, str]:
    """Return what the rules release of each channel as a whole text."""
    exempt = enforcer.formats
    out = {}
    for channel, text in said.items():
        if channel.startswith("tool:"):
            out[channel] = check_json(enforcer, text, exempt, exempt).text
        else:
            main = channel in ("content", "text")
            out[channel] = enforcer.check_output(text, exempt=frozenset() if main else exempt).text
    return out


def _payload(kind: str, channel: str, text: str, *, first: bool = False, finish: str | None = None) -> bytes:
    if kind == "completions":
        return orjson.dumps({"created": 1, "choices": [{"index": 0, "text": text, "finish_reason": finish}]})
    delta: dict[str, Any] = {channel: text}
    if channel == "tool:0":
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if first:
            call |= {"id": "call_0", "type": "function"}
            call["function"]["name"] = "look"
        delta = {"tool_calls": [call]}
    return orjson.dumps({"created": 1, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _read(surface: str, wire: bytes) -> dict[str, str]:
    """Return the text of each channel of the events sent to a caller."""
    texts: dict[str, list[str]] = {}
    for block in wire.split(b"\n\n"):
        line = next((line for line in block.split(b"\n") if line.startswith(b"data: ")), b"")
        if not line or line == b"data: [DONE]":
            continue
        event = orjson.loads(line[6:])
        if surface == "responses":
            if event["type"] in DELTAS:
                texts.setdefault(DELTAS[event["type"]], []).append(event["delta"])
            continue
        for choice in event.get("choices", ()):
            for channel, text in _parts(surface, choice):
                texts.setdefault(channel, []).append(text)
    return {channel: "".join(parts) for channel, parts in texts.items()}


def _parts(surface: str, choice: dict[str, Any]) -> list[tuple[str, str]]:
    if surface == "completions":
        return [("text", choice.get("text") or "")]
    delta = choice.get("delta") or {}
    found = [(name, delta[name]) for name in ("content", "reasoning") if delta.get(name)]
    calls = delta.get("tool_calls") or ()
    return found + [(f"tool:{call['index']}", (call.get("function") or {}).get("arguments") or "") for call in calls]
