"""Tool calls of the built-in engine: what a request offers, what forces a call, and how a text becomes calls.

A named or required call is forced by grammar, whatever the template. With `auto` the model decides, and writes calls as
its template taught it: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` is understood, else all is text.
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Literal, Protocol

import msgspec

from policies.engines.wire import ChatBody, RequestError

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Delta = dict[str, Any]


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Function


class _Name(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Name


class Offer(msgspec.Struct, frozen=True):
    """The tools of a request, and how it chooses: `none`, `auto`, `required`, or `named` for the tool `name`."""

    tools: list[dict[str, Any]]
    schemas: dict[str, dict[str, Any]]
    choice: str = "none"
    name: str = ""

    @property
    def shown(self) -> list[dict[str, Any]] | None:
        """Return the tools for the template; None when it should see none."""
        return self.tools if self.choice != "none" else None

    @property
    def schema(self) -> dict[str, Any] | None:
        """Return the JSON schema of the whole text when a call is forced: the arguments, or name and arguments."""
        if self.choice == "named":
            return self.schemas[self.name]
        if self.choice != "required":
            return None
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": schema},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, schema in self.schemas.items()
        ]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    def reader(self) -> Reader:
        """Return what turns one choice's text into deltas."""
        if self.choice == "named":
            return _Named(self.name)
        if self.choice == "required":
            return _Held(self.schemas)
        return _Marked(self.schemas) if self.choice == "auto" else _Plain()


def offer_of(body: ChatBody) -> Offer:
    """Return what a request offers; RequestError where tools or choice are malformed or do not go together."""
    try:
        tools = [] if body.tools is None else msgspec.convert(body.tools, list[_Tool])
        wanted: Any = body.tool_choice
        named = msgspec.convert(wanted, _NamedTool).function.name if isinstance(wanted, dict) else ""
    except msgspec.ValidationError as error:
        raise RequestError(f"malformed tools or tool choice: {error}", param="tools") from None
    schemas = {one.function.name: one.function.parameters or {"type": "object"} for one in tools}
    choice = "named" if named else wanted or ("auto" if tools else "none")
    if choice not in ("none", "auto", "required", "named"):
        raise RequestError("`tool_choice` is none, auto, required or a tool", param="tool_choice")
    if choice != "none" and not tools:
        raise RequestError("`tool_choice` needs `tools`", param="tool_choice")
    if len(schemas) < len(tools):
        raise RequestError("two tools have the same name", param="tools")
    if named and named not in schemas:
        raise RequestError(f"`{named}` is not among the tools", param="tool_choice")
    return Offer([msgspec.to_builtins(one) for one in tools], schemas, choice, named)


class Reader(Protocol):
    """Turns the text of one choice, as it comes, into deltas of a chat message."""

    def feed(self, text: str) -> list[Delta]:
        """Return what can be said for certain after more text."""

    def finish(self, reason: str) -> tuple[list[Delta], str]:
        """Return the rest, and why the choice ended."""


class _Plain:
    """All is text."""

    def feed(self, text: str) -> list[Delta]:
        return [{"content": text}] if text else []

    def finish(self, reason: str) -> tuple[list[Delta], str]:
        return [], reason


class _Named:
    """All is the arguments of one tool, as they come. OpenAI ends such a choice with `stop`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def feed(self, text: str) -> list[Delta]:
        if not text:
            return []
        name, self._name = self._name, ""
        if name:
            return [{"tool_calls": [_call(0, name, text)]}]
        return [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]}]

    def finish(self, reason: str) -> tuple[list[Delta], str]:
        return [], reason


class _Held:
    """All is one call, known when it is whole; cut short it is text."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._schemas = schemas
        self._text = ""

    def feed(self, text: str) -> list[Delta]:
        self._text += text
        return []

    def finish(self, reason: str) -> tuple[list[Delta], str]:
        call = _parsed(self._text, 0, self._schemas)
        if call is not None:
            return [{"tool_calls": [call]}], "tool_calls"
        return ([{"content": self._text}] if self._text else []), reason


class _Marked:
    """Text up to the first mark, then calls, which are known at the end; what is no call stays text."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._schemas = schemas
        self._held = ""
        self._calling = False

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        if self._calling:
            return []
        at = self._held.find(OPEN)
        if at >= 0:
            self._calling = True
            cut = at
        else:
            cut = len(self._held) - next(
                (size for size in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:size])), 0
            )
        said, self._held = self._held[:cut], self._held[cut:]
        return [{"content": said}] if said else []

    def finish(self, reason: str) -> tuple[list[Delta], str]:
        calls = []
        for number, part in enumerate(self._held.split(OPEN)[1:]):
            call = _parsed(part.partition(CLOSE)[0], number, self._schemas)
            if call is None:
                break
            calls.append(call)
        else:
            if calls:
                return [{"tool_calls": calls}], "tool_calls"
        return ([{"content": self._held}] if self._held else []), reason


def message_of(deltas: list[Delta]) -> dict[str, Any]:
    """Return the whole message that a choice's deltas make."""
    content = "".join(delta.get("content", "") for delta in deltas)
    calls: list[dict[str, Any]] = []
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        if piece["index"] == len(calls):
            calls.append({key: value for key, value in piece.items() if key != "index"})
        else:
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return message


def past_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    """Return the calls of a past turn as templates read them, with arguments as objects; RequestError otherwise."""
    shaped = []
    for number, call in enumerate(calls if isinstance(calls, list) else [None]):
        try:
            function = call["function"]
            name, arguments = function["name"], json.loads(function["arguments"] or "{}")
        except (TypeError, KeyError, ValueError):
            arguments = None
        if not isinstance(arguments, dict) or not isinstance(name, str):
            where = f"{place}.tool_calls[{number}]"
            raise RequestError(f"`{where}` needs a function's name and its arguments as a JSON object", param=where)
        shaped.append({"id": str(call.get("id", "")), "type": "function",
                       "function": {"name": name, "arguments": arguments}})  # fmt: skip
    return shaped


def _parsed(text: str, number: int, schemas: dict[str, Any]) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("name") not in schemas or not isinstance(value.get("arguments"), dict):
        return None
    return _call(number, value["name"], json.dumps(value["arguments"], ensure_ascii=False, separators=(",", ":")))


def _call(number: int, name: str, arguments: str) -> dict[str, Any]:
    return {
        "index": number, "id": f"call_{secrets.token_hex(12)}", "type": "function",
        "function": {"name": name, "arguments": arguments},
    }  # fmt: skip
