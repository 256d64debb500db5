"""An engine's answer on its way to the caller, streamed or whole: every text channel passes the output rules.

Both ways release the same text. What the rules have not decided yet is not in any chunk; when a rule blocks, nothing
after that point leaves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from policies.endpoint.upstream import UpstreamBroken
from policies.enforcement.engine import Enforcer, OutputStream
from policies.enforcement.json_stream import JsonStream, check_json
from policies.enforcement.stream import Piece
from policies.wire import surfaces
from policies.wire.frames import Frames
from policies.wire.refusal import Refusal, blocked
from policies.wire.surfaces import Channel, ChatChoice, ChunkChoice, TextChoice, ToolPiece, Turn
from registry.traits import describe

FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter"})
MAIN = frozenset({"content", "text"})
NONE: frozenset[str] = frozenset()
LOOKED_AT = 16
"""Of so many released pieces of an answer's main text one is looked at for what is held back after it."""
_IDENT = re.compile(r"[A-Za-z0-9_.:-]{0,128}")


class Ledger:
    """What was released, channel by channel, which rules had a say, and whether one of them ended the answer."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.aborted = False
        self.released: dict[Channel, list[str]] = {}
        self.finishes: dict[int, str] = {}
        self.usage: surfaces.Usage | None = None
        self.mean_logprob: float | None = None
        self.held = self.looks = 0
        """Characters held back, summed over the chunks that were looked at, and how many those are."""

    def hit(self, rules: Iterable[str]) -> None:
        """Note rules that changed or stopped a text, each once."""
        for rule in rules:
            if rule not in self.rules:
                self.rules.append(rule)

    def count(self, usage: surfaces.Usage | None) -> None:
        """Take the token counts, and out of them what is not for the caller."""
        self.usage = usage
        if usage is not None and usage.mean_logprob is not msgspec.UNSET:
            self.mean_logprob, usage.mean_logprob = usage.mean_logprob, msgspec.UNSET

    def look(self, held: int) -> None:
        """Note how many characters are held back after a chunk."""
        self.held += held
        self.looks += 1

    def release(self, channel: Channel, text: str) -> None:
        """Note a text that leaves."""
        if text:
            self.released.setdefault(channel, []).append(text)

    @property
    def chars(self) -> int:
        """Code points released over all channels."""
        return sum([sum(map(len, texts)) for texts in self.released.values()])

    @property
    def main(self) -> str:
        """The released text of the first choice that has any; reasoning and tool arguments are left out."""
        spoken = [channel for channel in sorted(self.released) if channel[1] in MAIN]
        return "".join(self.released[spoken[0]]) if spoken else ""

    def signals(self, key: bytes, *, described: bool = True) -> dict[str, Any]:
        """Return the released answer in numbers: its traits, tool calls, those whose arguments are no JSON object.

        The mean log probability of its tokens is there where the engine says it; the traits only if it is `described`.
        """
        said = {} if self.mean_logprob is None else {"mean_logprob": self.mean_logprob}
        calls = ["".join(texts) for (_, name), texts in self.released.items() if name.startswith("tool:")]
        return {
            "output": describe(self.main, key) if described else {},
            "tool_calls": len(calls),
            "tool_errors": sum([not _is_object(call) for call in calls]) if calls else 0,
            **said,
        }

    def digest(self, key: bytes) -> str:
        """Return the keyed hash of all that was released; equal for streamed and whole answers of equal text."""
        state = hashlib.blake2b(key=key, digest_size=16)
        for (index, name), texts in sorted(self.released.items()):
            text = "".join(texts).encode("utf-8", "surrogatepass")
            state.update(f"{index} {name} {len(text)}\n".encode() + text)
        return f"blake2b:{state.hexdigest()}"

    @property
    def finish(self) -> str:
        """The finish reason of the first choice, `` before it has one."""
        return self.finishes.get(min(self.finishes), "") if self.finishes else ""


class StreamedAnswer:
    """Turns the engine's events into the caller's: feed it one payload after another, send what it returns.

    It is `over`, and takes no more, once a rule has blocked (`refusal` says why) or aborted every choice, so that the
    engine is to stop, or once the engine has said that it ended (`done`). `ended` says whether every
    choice that has begun is complete. `exempt` are rules that the caller is exempt from, `choices` how many answers
    were asked for, `json` whether as JSON.
    """

    def __init__(
        self, enforcer: Enforcer, surface: str, frames: Frames, tools: frozenset[str], *, exempt: frozenset[str] = NONE,
        choices: int = 1, json: bool = False,
    ) -> None:  # fmt: skip
        self.ledger = Ledger()
        self.refusal: Refusal | None = None
        self.done = self.over = self.ended = False
        self._enforcer, self._surface, self._frames, self._tools = enforcer, surface, frames, tools
        self._streams: dict[Channel, OutputStream | JsonStream] = {}
        self._main = enforcer.guards_off(surface) | exempt
        self._elsewhere = enforcer.formats | self._main
        self._asked, self._json = choices, json
        self._choices: set[int] = set()
        self._spoken: set[int] = set()
        self._aborted: set[int] = set()
        self._quick: dict[int, tuple[Callable[[str], Piece], list[str], OutputStream | JsonStream]] = {}
        self._created = 0
        self._read = surfaces.reader(surface)

    def feed(self, payload: bytes) -> bytes:
        """Return the events to send for a payload.

        Raises:
            UpstreamBroken: the engine sent something that is no chunk, or an error event.
        """
        if self.over:
            return b""
        try:
            chunk = self._read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if payload == b"[DONE]":
                return self._take_end_mark()
            raise UpstreamBroken(f"the engine sent no chunk: {error}") from None
        if chunk.usage is not None:
            self.ledger.count(chunk.usage)
        choices = chunk.choices
        if len(choices) != 1:
            return self._slowly(chunk.created, choices, None)
        choice = choices[0]
        known = self._quick.get(choice.index)
        text = choice.only_text() if known is not None else ""
        if known is None or not text:
            return self._slowly(chunk.created, choices, None)
        piece = known[0](text)
        if piece.hits or piece.blocked is not None:
            return self._slowly(chunk.created, choices, piece)
        released = piece.text
        if not len(known[1]) % LOOKED_AT:
            self.ledger.look(known[2].held)
        if not released:
            return b""
        known[1].append(released)
        return self._frames.quick(choice.index, released)

    def closing(self) -> bytes:
        """Return what ends the stream well."""
        return self._frames.closing(self.ledger.usage)

    def blocked_events(self, refusal: Refusal, request_id: str) -> bytes:
        """Return what ends a blocked stream: `content_filter` for every open choice, the error, the end mark."""
        cut = sorted(self._choices - self.ledger.finishes.keys()) or [0]
        self.ledger.finishes.update(dict.fromkeys(cut, "content_filter"))
        ended = self._frames.pieces(self._created, [self._ending(index) for index in cut])
        return ended + self._frames.failing(refusal, request_id)

    def _ending(self, index: int) -> ChunkChoice | TextChoice:
        if self._surface == "chat":
            return ChunkChoice(Turn(), index, "content_filter")
        return TextChoice("", index, "content_filter")

    def _take_end_mark(self) -> bytes:
        """Take the engine's end mark."""
        if not self.ended:
            raise UpstreamBroken("the engine ended a stream in the middle of a choice")
        self.done = self.over = True
        return b""

    def _slowly(self, created: int, choices: Sequence[ChunkChoice | TextChoice], first: Piece | None) -> bytes:
        """Return the event of a chunk of any shape; `first` is what its first text came to, where it is known."""
        self._created = created or self._created
        kept = []
        for choice in choices:
            if choice.index in self.ledger.finishes:
                continue  # nothing may follow a choice's end
            if self._enforce(choice, first):
                kept.append(choice)
            if self.refusal is not None:
                break
        aborted = bool(self._aborted) and self._aborted.issuperset(self._choices)
        self.over = self.refusal is not None or (aborted and len(self.ledger.finishes) >= self._asked)
        self.ended = bool(self._choices) and not self._choices - self.ledger.finishes.keys()
        return self._frames.pieces(self._created, kept) if kept else b""

    def _enforce(self, choice: ChunkChoice | TextChoice, first: Piece | None) -> bool:
        """Put a choice's texts through their streams; say whether it is worth sending."""
        if type(choice) is ChunkChoice:
            self._check_tools(choice.delta.tool_calls)
        self._choices.add(choice.index)
        stopped = False
        for slot in surfaces.slots(choice):
            text = slot.get()
            if not text:
                continue
            if stopped:
                slot.put("")
                continue
            piece = first if first is not None else self._stream(slot.key).push(text)
            slot.put(piece.text)
            self.ledger.release(slot.key, piece.text)
            stopped = self._note(piece, choice.index)
            if stopped and type(choice) is ChunkChoice:
                choice.delta.keep_calls(slot.key[1])
        if choice.index in self._aborted:
            choice.finish_reason = "content_filter"
        if choice.finish_reason is not None and self.refusal is None:
            self._finish(choice)
        if self.refusal is not None:
            choice.finish_reason = None
        return self._speak(choice)

    def _stream(self, channel: Channel) -> OutputStream | JsonStream:
        """Return the stream of a channel."""
        stream = self._streams.get(channel)
        if stream is None:
            name = channel[1]
            exempt = self._main if name in MAIN else self._elsewhere
            if name.startswith("tool:") or (self._json and name in MAIN):
                stream = JsonStream(self._enforcer, exempt, self._elsewhere)
            else:
                stream = self._enforcer.stream(exempt=exempt)
            self._streams[channel] = stream
        return stream

    def _finish(self, choice: ChunkChoice | TextChoice) -> None:
        self._quick.pop(choice.index, None)
        for channel, stream in self._streams.items():
            if channel[0] != choice.index:
                continue
            piece = stream.finish()
            if piece.text:
                surfaces.append(choice, channel, piece.text)
                self.ledger.release(channel, piece.text)
            self._note(piece, choice.index)
        if self.refusal is None:
            reason = "content_filter" if choice.index in self._aborted else choice.finish_reason
            choice.finish_reason = reason if reason in FINISHES else "stop"
            self.ledger.finishes[choice.index] = choice.finish_reason

    def _note(self, piece: Piece, index: int) -> bool:
        """Keep which rules had a say; say whether nothing may follow in this choice."""
        if piece.hits or piece.blocked:
            self.ledger.hit(rule_ids(piece))
        if not piece.blocked:
            return False
        if piece.aborts:
            self._aborted.add(index)
            self.ledger.aborted = True
        elif self.refusal is None:
            self.refusal = blocked([piece.blocked], "answer")
        return True

    def _check_tools(self, calls: Sequence[ToolPiece] | None) -> None:
        if calls and self.refusal is None:
            self.refusal = tool_refusal(calls, self._tools)

    def _speak(self, choice: ChunkChoice | TextChoice) -> bool:
        """Say whether the choice says anything; its first words carry the role."""
        first = choice.index not in self._spoken
        if type(choice) is TextChoice:
            says = bool(choice.text) or choice.finish_reason is not None
        else:
            if self.refusal is not None:
                choice.delta.tool_calls = None
            says = not choice.delta.empty() or choice.finish_reason is not None
            choice.delta.role = "assistant" if first and says else None
            if first and says and choice.delta.content is None and choice.delta.tool_calls is None:
                choice.delta.content = ""
        if says:
            self._spoken.add(choice.index)
            self._hasten(choice.index)
        return says

    def _hasten(self, index: int) -> None:
        """Let the next pieces of a choice's main text take the short way, once it has spoken some of it."""
        channel = (index, "content" if self._surface == "chat" else "text")
        released = self.ledger.released.get(channel)
        if released is not None and index not in self._quick and index not in self.ledger.finishes:
            stream = self._streams[channel]
            self._quick[index] = (stream.push, released, stream)


def enforce_whole(
    enforcer: Enforcer, answer: surfaces.Whole, tools: frozenset[str], ledger: Ledger, exempt: frozenset[str] = NONE,
    *, json: bool = False,
) -> Refusal | None:  # fmt: skip
    """Put every text of a whole answer through the output rules, in place; return the refusal when one blocks."""
    for choice in answer.choices:
        refusal = _settle_turn(choice, tools) if type(choice) is ChatChoice else None
        if refusal is not None:
            return refusal
        aborted = False
        for slot in surfaces.slots(choice):
            text = slot.get()
            if not text or aborted:
                slot.put("")
                continue
            piece = check_text(enforcer, slot.key[1], text, exempt, json=json)
            if piece.text is not text:
                slot.put(piece.text)
            if not piece.hits and not piece.blocked:
                continue
            ledger.hit(rule_ids(piece))
            if piece.blocked and not piece.aborts:
                return blocked([piece.blocked], "answer")
            if piece.blocked:
                aborted = ledger.aborted = True
                if type(choice) is ChatChoice:
                    choice.message.keep_calls(slot.key[1])
        reason = "content_filter" if aborted else choice.finish_reason
        choice.finish_reason = reason if reason in FINISHES else "stop"
        ledger.finishes[choice.index] = choice.finish_reason
    ledger.count(answer.usage)
    return None


def _settle_turn(choice: ChatChoice, tools: frozenset[str]) -> Refusal | None:
    """Name the speaker; return the refusal for a call of a tool that was not offered."""
    choice.message.role = "assistant"
    calls = choice.message.tool_calls
    return tool_refusal(calls, tools) if isinstance(calls, list) and calls else None


def check_text(enforcer: Enforcer, name: str, text: str, exempt: frozenset[str], *, json: bool = False) -> Piece:
    """Return what of the whole text of a channel may leave; `json`: the main channel was asked for as JSON."""
    away = enforcer.formats | exempt if exempt else enforcer.formats
    main = name in MAIN
    if name.startswith("tool:") or (json and main):
        return check_json(enforcer, text, exempt if main else away, away)
    return enforcer.check_output(text, exempt=exempt if main else away)


def release_whole(answer: surfaces.Whole, ledger: Ledger) -> None:
    """Note all texts of a whole answer as released."""
    for choice in answer.choices:
        for slot in surfaces.slots(choice):
            ledger.release(slot.key, slot.get())


def tool_refusal(calls: Sequence[ToolPiece], offered: frozenset[str]) -> Refusal | None:
    """Return the refusal for a call of a tool that the caller did not offer; names and ids are text channels too."""
    for call in calls:
        name = call.function.name if call.function is not None else None
        if (name and name not in offered) or not _IDENT.fullmatch(call.id or ""):
            return blocked(["tool-not-offered"], "answer")
        call.type = "function" if call.type else None
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def rule_ids(piece: Piece) -> list[str]:
    """Return the ids of the rules that found something in a text, each once, in order, the blocking one last."""
    found = [hit.rule for hit in piece.hits]
    return list(dict.fromkeys([*found, piece.blocked] if piece.blocked else found))
