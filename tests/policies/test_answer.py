"""Answers, streamed and whole: every channel of every choice is a text of its own, and both ways release the same."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint.answer import LOOKED_AT, Ledger, StreamedAnswer, enforce_whole, release_whole
from policies.enforcement.engine import Enforcer
from policies.wire import surfaces
from policies.wire.frames import ChunkFrames
from tests.policies.enforcing import enforcer_of
from tests.policies.running import SECRET

KEY = {"kind": "regex", "type": "api_key", "pattern": "sk-[a-z0-9]{8,24}"}
CITY = {"kind": "terms", "type": "city", "terms": ["rome"], "action": "mask"}
ENFORCER = enforcer_of(KEY, CITY, {"kind": "terms", "type": "bomb", "terms": ["sarin"], "action": "block"})
TOOLS = frozenset({"look"})
CHANNELS = ["reasoning", "content", "tool:0", "tool:1"]
TEXTS = st.sampled_from(
    ["plain words", f"the {SECRET} is it", "in Rome, yes", "sk-abc", "a sk-", "", "\u00e9\U0001f600"]
)


def said(channel: str, text: str, *, first: bool = False) -> dict[str, Any]:
    if not channel.startswith("tool:"):
        return {channel: text}
    number = int(channel[-1])
    call: dict[str, Any] = {"index": number, "function": {"arguments": text}}
    if first:
        call |= {"id": f"call_{number}", "type": "function"}
        call["function"]["name"] = "look"
    return {"tool_calls": [call]}


def payload(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": {"content": [1]}}
    return orjson.dumps({"created": 1, "choices": [choice]})


def stream(enforcer: Enforcer, payloads: list[bytes], choices: int) -> tuple[StreamedAnswer, list[dict[str, Any]]]:
    """Return the answer, and the chunks that it wrote."""
    frames = ChunkFrames("chat", "hr-1", "m", include_usage=False)
    answer = StreamedAnswer(enforcer, "chat", frames, TOOLS, choices=choices)
    wire = b""
    for each in [*payloads, b"[DONE]"]:
        wire += answer.feed(each)
    return answer, [orjson.loads(block[6:]) for block in wire.split(b"\n\n") if block]


def written(chunks: list[dict[str, Any]]) -> dict[tuple[int, str], str]:
    """Return what a caller has read of each channel."""
    texts: dict[tuple[int, str], str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            parts = [(name, delta[name]) for name in ("reasoning", "content") if delta.get(name)]
            parts += [(f"tool:{c['index']}", c["function"].get("arguments", "")) for c in delta.get("tool_calls", ())]
            for name, text in parts:
                texts[choice["index"], name] = texts.get((choice["index"], name), "") + text
    return {key: text for key, text in texts.items() if text}


def whole(enforcer: Enforcer, texts: dict[tuple[int, str], str]) -> tuple[Ledger, Any, surfaces.Whole]:
    """Return what the same texts come to as one answer: ledger, refusal, answer."""
    choices = []
    for index in sorted({index for index, _ in texts}):
        mine = {name: text for (owner, name), text in texts.items() if owner == index}
        message: dict[str, Any] = {name: text for name, text in mine.items() if not name.startswith("tool:")}
        calls = sorted(name for name in mine if name.startswith("tool:"))
        message["tool_calls"] = [
            {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": mine[name]}}
            for name in calls
        ]
        choices.append({"index": index, "message": message, "finish_reason": "stop"})
    answer = surfaces.read_whole("chat", orjson.dumps({"choices": choices}), "hr-1", "m")
    ledger = Ledger()
    refusal = enforce_whole(enforcer, answer, TOOLS, ledger)
    release_whole(answer, ledger)
    return ledger, refusal, answer


@given(
    st.dictionaries(st.tuples(st.integers(0, 1), st.sampled_from(CHANNELS)), TEXTS, min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_interleaved_channels_release_what_whole_ones_do(texts: dict[tuple[int, str], str], random: Any) -> None:
    left = {key: (f'{{"a": "{text}"}}' if key[1].startswith("tool:") else text) for key, text in texts.items()}
    complete, payloads, opened = dict(left), [], set()
    while any(left.values()):
        key = random.choice([key for key, text in left.items() if text])
        size = random.randint(1, 4)
        payloads.append(payload(key[0], said(key[1], left[key][:size], first=key not in opened)))
        opened.add(key)
        left[key] = left[key][size:]
    indices = sorted({index for index, _ in complete})
    payloads += [payload(index, {}, "stop") for index in indices]
    answer, chunks = stream(ENFORCER, payloads, len(indices))
    names = {key: f"tool:{sorted(k[1] for k in complete if k[0] == key[0] and k[1][0] == 't').index(key[1])}"
             for key in complete if key[1].startswith("tool:")}  # fmt: skip
    ledger, refusal, _ = whole(ENFORCER, complete)
    assert refusal is None
    assert answer.refusal is None
    found = {(key[0], names.get(key, key[1])): text for key, text in written(chunks).items()}
    assert found == {key: "".join(parts) for key, parts in ledger.released.items()}
    assert not any(SECRET in text or "Rome" in text for text in found.values())
    assert set(answer.ledger.rules) == set(ledger.rules)


def test_a_secret_is_looked_for_within_a_channel_not_across() -> None:
    half = len(SECRET) // 2
    texts = [said("reasoning", SECRET[:half]), said("content", SECRET[half:]), {}]
    _, chunks = stream(ENFORCER, [payload(0, delta, None if delta else "stop") for delta in texts], 1)
    assert written(chunks) == {(0, "reasoning"): SECRET[:half], (0, "content"): SECRET[half:]}


def test_a_block_in_one_channel_ends_every_choice() -> None:
    payloads = [
        payload(1, said("content", "fine")),
        payload(0, said("content", "sarin ")),
        payload(1, said("content", "x")),
    ]
    answer, chunks = stream(ENFORCER, payloads, 2)
    assert answer.refusal is not None
    assert written(chunks) == {(1, "content"): "fine"}


def test_nothing_follows_a_choices_end() -> None:
    payloads = [payload(0, said("content", "a"), "stop"), payload(0, said("content", SECRET))]
    _, chunks = stream(ENFORCER, payloads, 1)
    assert written(chunks) == {(0, "content"): "a"}


def test_nothing_follows_the_end_mark() -> None:
    late = payload(1, {"content": "more"})
    answer, chunks = stream(ENFORCER, [payload(0, {"content": "all"}, "stop"), b"[DONE]", late], 2)
    assert (answer.done, answer.over) == (True, True)
    assert written(chunks) == {(0, "content"): "all"}


# ---- abort: a normal end -------------------------------------------------------------------------------------------

ABORTING = enforcer_of(KEY, {"kind": "terms", "type": "deal", "terms": ["project orion"], "action": "abort"})


def test_an_abort_is_a_normal_end_of_its_choice() -> None:
    spoken = ["well, ", "project ", "ori", "on is ", "more"]
    answer, chunks = stream(ABORTING, [payload(0, said("content", text)) for text in spoken], 1)
    assert (answer.refusal, answer.over, answer.done, answer.ledger.rules) == (None, True, False, ["r1"])
    assert written(chunks) == {(0, "content"): "well, "}
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    ledger, refusal, whole_answer = whole(ABORTING, {(0, "content"): "".join(spoken)})
    assert (refusal, ledger.released) == (None, {(0, "content"): ["well, "]})
    assert whole_answer.choices[0].finish_reason == "content_filter"


def test_other_choices_go_on() -> None:
    payloads = [
        payload(0, said("content", "project orion ")), payload(1, said("content", "fine")),
        payload(0, said("content", "more")), payload(1, {}, "stop"),
    ]  # fmt: skip
    answer, chunks = stream(ABORTING, payloads, 2)
    assert written(chunks) == {(1, "content"): "fine"}
    assert (answer.refusal, answer.over, answer.done) == (None, True, True)


def test_later_channels_of_an_aborted_choice_are_dropped() -> None:
    texts = {(0, "reasoning"): "so project orion it is", (0, "content"): "the answer", (0, "tool:0"): "{}"}
    ledger, _, answer = whole(ABORTING, texts)
    assert ledger.released == {(0, "reasoning"): ["so "]}
    assert b"tool_calls" not in surfaces.encode(answer)
    payloads = [payload(0, said(name, text, first=True)) for (_, name), text in texts.items()]
    streamed, chunks = stream(ABORTING, payloads, 1)
    assert (written(chunks), streamed.over, streamed.done) == ({(0, "reasoning"): "so "}, True, False)


def test_an_abort_within_arguments_drops_the_calls_after_it() -> None:
    texts = {(0, "content"): "a", (0, "tool:0"): '{"a": "project orion x"}', (0, "tool:1"): "{}"}
    ledger, _, _ = whole(ABORTING, texts)
    assert ledger.released == {(0, "content"): ["a"], (0, "tool:0"): ['{"a": "']}
    _, chunks = stream(ABORTING, [payload(0, said(name, text, first=True)) for (_, name), text in texts.items()], 1)
    assert written(chunks) == {key: "".join(parts) for key, parts in ledger.released.items()}


def test_what_is_held_back_is_looked_at_once_in_so_many_pieces() -> None:
    text = "a plain text sk-abc and one more sk-, the city of rom, and the rest of it; " * 20
    answer, _ = stream(ENFORCER, [payload(0, {"content": char}) for char in text] + [payload(0, {}, "stop")], 1)
    held: list[int] = []
    alone, released = ENFORCER.stream(), 0
    for char in text:
        piece = alone.push(char)
        if released and not released % LOOKED_AT:
            held.append(alone.held)
        released += bool(piece.text)
    assert (answer.ledger.held, answer.ledger.looks) == (sum(held), len(held))
    assert answer.ledger.held > 0
