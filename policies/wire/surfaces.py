"""OpenAI's wire shapes on the way out: what may be in an answer, read from the engine and written to the caller.

Decoding keeps only the fields named here, so log probabilities, token ids and whatever an engine adds next are dropped
before anything is written. A slot is one text channel of one choice: it can be read and replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, final

import msgspec
from msgspec import Struct

from policies.wire.failures import UpstreamBroken

DONE = b"data: [DONE]\n\n"
LONGEST_EVENT = 1 << 20
"""Bytes that an engine may send without ending an event."""
TEXT_FIELDS = ("reasoning", "reasoning_content", "content", "refusal")
"""The text channels of a chat turn, in the order in which a model writes them; tool-call arguments follow."""
_TEXTS_OF = attrgetter(*TEXT_FIELDS)

Channel = tuple[int, str]
"""(choice index, channel name); tool arguments are `tool:<index>`, a completion's text is `text`."""


class Usage(Struct):
    """Token counts. `mean_logprob`, where an engine says it, is for the decision log and never sent on."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    total_tokens: int = 0
    mean_logprob: float | msgspec.UnsetType = msgspec.UNSET


class FunctionPiece(Struct, omit_defaults=True):
    """A function's name, once, and a piece (or all) of its arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolPiece(Struct, omit_defaults=True):
    """A piece (or all) of a tool call."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionPiece | None = None


class Turn(Struct, omit_defaults=True):
    """A delta or a whole message: its text channels and nothing else."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolPiece] | None = None

    def empty(self) -> bool:
        """Say whether nothing but a role is left."""
        return not (self.content or self.reasoning or self.reasoning_content or self.refusal or self.tool_calls)

    def keep_calls(self, channel: str) -> None:
        """Drop the tool calls after the one whose arguments a channel is; all of them for any other channel."""
        self.tool_calls = _calls_until(self.tool_calls, channel)


@final
class ChunkChoice(Struct):
    """A choice of a streamed chat chunk."""

    delta: Turn
    index: int = 0
    finish_reason: str | None = None

    def only_text(self) -> str:
        """Return the content where that is all the choice says, else ``."""
        said = self.delta
        more = self.finish_reason is not None or said.reasoning or said.reasoning_content or said.refusal
        return "" if more or said.tool_calls else said.content or ""


class Chunk(Struct, omit_defaults=True):
    """A streamed chat chunk."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


@final
class TextChoice(Struct):
    """A choice of a completion, streamed or whole."""

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    logprobs: None = None

    def only_text(self) -> str:
        """Return the text where that is all the choice says, else ``."""
        return self.text if self.finish_reason is None else ""


class TextAnswer(Struct, omit_defaults=True):
    """A completion, streamed or whole."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class AnswerMessage(Struct):
    """A whole chat message; `content` is always there, as OpenAI's client expects."""

    role: str = "assistant"
    content: str | None = None
    reasoning: str | msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType | None = msgspec.UNSET
    refusal: str | None = None
    tool_calls: list[ToolPiece] | msgspec.UnsetType | None = msgspec.UNSET

    def keep_calls(self, channel: str) -> None:
        """Drop the tool calls after the one whose arguments a channel is; all of them for any other channel."""
        calls = self.tool_calls if isinstance(self.tool_calls, list) else None
        self.tool_calls = _calls_until(calls, channel) or msgspec.UNSET


@final
class ChatChoice(Struct):
    """A choice of a whole chat answer."""

    message: AnswerMessage
    index: int = 0
    finish_reason: str | None = None
    logprobs: None = None


class ChatAnswer(Struct, omit_defaults=True):
    """A whole chat answer."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class _EngineTextChoice(Struct):
    """As an engine sends it: whatever stands under `logprobs` is not read."""

    text: str = ""
    index: int = 0
    finish_reason: str | None = None


class _EngineChatChoice(Struct):
    message: AnswerMessage
    index: int = 0
    finish_reason: str | None = None


class _EngineText(Struct):
    choices: list[_EngineTextChoice]
    created: int = 0
    usage: Usage | None = None


class _EngineChat(Struct):
    choices: list[_EngineChatChoice]
    created: int = 0
    usage: Usage | None = None


class _EngineChunk(Struct):
    choices: list[ChunkChoice]
    created: int = 0
    usage: Usage | None = None


class _TextPieces(Struct):
    choices: list[TextChoice]
    created: int = 0
    usage: Usage | None = None


_chunk = msgspec.json.Decoder(_EngineChunk)
_text = msgspec.json.Decoder(_EngineText)
_chat = msgspec.json.Decoder(_EngineChat)
_encoder = msgspec.json.Encoder()

Streamed = Chunk | TextAnswer
Pieces = _EngineChunk | _TextPieces
Whole = ChatAnswer | TextAnswer


def reader(surface: str) -> Callable[[bytes], Pieces]:
    """Return what reads the news of one streamed chunk of `chat` or `completions`; it raises msgspec.DecodeError."""
    return _chunk.decode if surface == "chat" else _text_pieces


def _text_pieces(data: bytes) -> _TextPieces:
    read = _text.decode(data)
    return _TextPieces(
        [TextChoice(choice.text, choice.index, choice.finish_reason) for choice in read.choices],
        read.created,
        read.usage,
    )


def read_whole(surface: str, data: bytes, answer_id: str, model: str) -> Whole:
    """Return a whole answer under our id and the name the caller asked for; raises msgspec.DecodeError."""
    if surface == "chat":
        read = _chat.decode(data)
        choices = [ChatChoice(choice.message, choice.index, choice.finish_reason) for choice in read.choices]
        return ChatAnswer(answer_id, "chat.completion", read.created, model, choices, read.usage)
    return _text_answer(data, answer_id, model)


def _text_answer(data: bytes, answer_id: str, model: str) -> TextAnswer:
    read = _text.decode(data)
    choices = [TextChoice(choice.text, choice.index, choice.finish_reason) for choice in read.choices]
    return TextAnswer(answer_id, "text_completion", read.created, model, choices, read.usage)


def _calls_until(calls: list[ToolPiece] | None, channel: str) -> list[ToolPiece] | None:
    if not calls or not channel.startswith("tool:"):
        return None
    last = int(channel.removeprefix("tool:"))
    return [tool for place, tool in enumerate(calls) if (place if tool.index is None else tool.index) <= last]


def encode(value: Any) -> bytes:
    """Return JSON."""
    return _encoder.encode(value)


def event(value: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + _encoder.encode(value) + b"\n\n"


def split_events(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Return the payloads of the whole `data:` events in a buffer, and what is left for the next read.

    Comments and other fields are dropped. Raises UpstreamBroken for several `data:` lines of one event, which no engine
    we start sends, and when more than `LONGEST_EVENT` bytes are left.
    """
    if buffer.find(b"\n") == len(buffer) - 2 and buffer.endswith(b"\n") and buffer.startswith(b"data: "):
        return [buffer[6:-2]], b""  # one event in one read, as most are
    *whole, rest = buffer.split(b"\n\n")
    payloads = []
    for block in whole:
        if block.startswith(b"data: ") and b"\n" not in block:
            payloads.append(block[6:])
            continue
        lines = [line for line in block.splitlines() if line.startswith(b"data:")]
        if len(lines) > 1:
            raise UpstreamBroken("an event of several data lines")
        payloads.extend(line[5:].strip() for line in lines)
    if len(rest) > LONGEST_EVENT:
        raise UpstreamBroken(f"an event of more than {LONGEST_EVENT} bytes")
    return payloads, rest


class Slot:
    """One text of an answer: `key` names its channel, `get` and `put` read and replace it."""

    __slots__ = ("_field", "_owner", "key")

    def __init__(self, key: Channel, owner: Any, field: str) -> None:
        self.key, self._owner, self._field = key, owner, field

    def get(self) -> str:
        """Return the text."""
        return str(getattr(self._owner, self._field))

    def put(self, text: str) -> None:
        """Replace the text."""
        setattr(self._owner, self._field, text)


def slots(choice: ChunkChoice | ChatChoice | TextChoice) -> list[Slot]:
    """Return every text of a choice that is present, empty ones included."""
    index = choice.index
    if type(choice) is TextChoice:
        return [Slot((index, "text"), choice, "text")]
    turn = choice.delta if type(choice) is ChunkChoice else choice.message
    texts = zip(TEXT_FIELDS, _TEXTS_OF(turn), strict=True)
    found = [Slot((index, field), turn, field) for field, text in texts if type(text) is str]
    if turn.tool_calls:
        for position, tool in enumerate(turn.tool_calls):
            if tool.function is not None and tool.function.arguments is not None:
                number = position if tool.index is None else tool.index
                found.append(Slot((index, f"tool:{number}"), tool.function, "arguments"))
    return found


def append(choice: ChunkChoice | TextChoice, channel: Channel, text: str) -> None:
    """Add released text to a channel of a chunk that may not have carried that channel."""
    if type(choice) is TextChoice:
        choice.text += text
        return
    name = channel[1]
    if not name.startswith("tool:"):
        setattr(choice.delta, name, (getattr(choice.delta, name) or "") + text)
        return
    number = int(name.removeprefix("tool:"))
    for tool in choice.delta.tool_calls or ():
        if tool.index == number and tool.function is not None:
            tool.function.arguments = (tool.function.arguments or "") + text
            return
    piece = ToolPiece(index=number, function=FunctionPiece(arguments=text))
    choice.delta.tool_calls = [*(choice.delta.tool_calls or ()), piece]


def as_pieces(answer: Whole) -> list[ChunkChoice | TextChoice]:
    """Return a whole answer as pieces of a stream: for answers that are released only when they are complete."""
    pieces: list[ChunkChoice | TextChoice] = []
    for choice in answer.choices:
        if type(choice) is TextChoice:
            pieces.append(choice)
            continue
        said = choice.message
        tools = said.tool_calls if isinstance(said.tool_calls, list) else None
        for number, tool in enumerate(tools or ()):
            tool.index = number
        turn = Turn(
            "assistant", said.content, said.reasoning or None, said.reasoning_content or None, said.refusal, tools
        )
        pieces.append(ChunkChoice(turn, choice.index, choice.finish_reason))
    return pieces
