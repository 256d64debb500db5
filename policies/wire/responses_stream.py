"""A response as it is streamed: the events of OpenAI's Responses API, numbered, made of what the rules release.

Items are announced when their first text is released and closed together at the end, in order: until then a rule may
still hold the last characters of any of them.
"""

from __future__ import annotations

import time
from typing import Any

from policies.wire import surfaces
from policies.wire.frames import Choices
from policies.wire.refusal import Refusal
from policies.wire.responses_answer import CHANNELS, INCOMPLETE, OutputItem, item_id, response
from policies.wire.surfaces import ChunkChoice, ToolPiece, Usage

DELTAS = {
    "message": "response.output_text",
    "refusal": "response.refusal",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}


class ResponseFrames:
    """The events of one streamed response; it has one choice."""

    def __init__(self, answer_id: str, model: str) -> None:
        self._id, self._model = answer_id, model
        self._created = 0
        self._number = 0
        self._items: list[OutputItem] = []
        self._by_channel: dict[str, OutputItem] = {}
        self._finish = ""
        self._head = b""

    def quick(self, index: int, text: str) -> bytes:
        """Return a piece of the main text of a choice that has spoken before."""
        item = self._by_channel["content"]
        item.texts.append(text)
        if not self._head:
            self._head = (
                b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"%b",'
                b'"output_index":%d,"content_index":0,"logprobs":[],"delta":' % (item.id.encode(), item.place)
            )
        event = b'%b%b,"sequence_number":%d}\n\n' % (self._head, surfaces.encode(text), self._number)
        self._number += 1
        return event

    def pieces(self, created: int, choices: Choices) -> bytes:
        """Return the events of released pieces; a finish reason is kept for `closing`."""
        out = [] if self._number else self._opening(created)
        for choice in choices:
            if isinstance(choice, ChunkChoice) and choice.index == 0:
                out += self._deltas(choice)
                self._finish = choice.finish_reason or self._finish
        return b"".join(out)

    def closing(self, usage: Usage | None) -> bytes:
        """Return what ends the response: every item done, then `response.completed` or `response.incomplete`."""
        out = [] if self._number else self._opening(0)
        if not self._items:
            _, opened = self._item("message", "content")
            out += opened
        reason = INCOMPLETE.get(self._finish, "")
        status = "incomplete" if reason else "completed"
        for item in self._items:
            out += self._done(item, status if item is self._items[-1] else "completed")
        output = [item.body(status if item is self._items[-1] else "completed") for item in self._items]
        body = self._response(status, output, usage=usage, reason=reason)
        out.append(self._event(f"response.{status}", {"response": body}))
        return b"".join(out)

    def failing(self, refusal: Refusal, request_id: str) -> bytes:
        """Return what ends a response that failed: what was released of it stands, the error says why it ends."""
        output = [item.body("incomplete") for item in self._items]
        body = self._response("failed", output, error=refusal.detail(request_id))
        return self._event("response.failed", {"response": body})

    # ---- the events ------------------------------------------------------------------------------------------------

    def _opening(self, created: int) -> list[bytes]:
        self._created = created or int(time.time())
        body = self._response("in_progress", [])
        return [
            self._event("response.created", {"response": body}),
            self._event("response.in_progress", {"response": body}),
        ]

    def _deltas(self, choice: ChunkChoice) -> list[bytes]:
        out: list[bytes] = []
        said = choice.delta
        for channel, kind in CHANNELS.items():
            text = getattr(said, channel)
            if text:
                item, opened = self._item(kind, channel)
                out += [*opened, self._delta(item, text)]
        for position, call in enumerate(said.tool_calls or ()):
            out += self._call(call, position if call.index is None else call.index)
        return out

    def _call(self, call: ToolPiece, number: int) -> list[bytes]:
        channel = f"tool:{number}"
        function = call.function or surfaces.FunctionPiece()
        item, opened = self._item("function_call", channel, function.name or "", call.id or "")
        out = list(opened)
        if function.arguments:
            out.append(self._delta(item, function.arguments))
        return out

    def _item(self, kind: str, channel: str, name: str = "", call_id: str = "") -> tuple[OutputItem, list[bytes]]:
        """Return the item of a channel, and the events that announce it where it is new."""
        item = self._by_channel.get(channel)
        if item is not None:
            return item, []
        place = len(self._items)
        item = OutputItem(kind, item_id(kind, self._id, place), place, name=name, call_id=call_id)
        self._items.append(item)
        self._by_channel[channel] = item
        added = {"output_index": place, "item": item.body("in_progress", empty=True)}
        out = [self._event("response.output_item.added", added)]
        if kind != "function_call":
            part = {"item_id": item.id, "output_index": place, "content_index": 0, "part": item.part("")}
            out.append(self._event("response.content_part.added", part))
        return item, out

    def _delta(self, item: OutputItem, text: str) -> bytes:
        item.texts.append(text)
        return self._event(f"{DELTAS[item.kind]}.delta", {**self._where(item), "delta": text})

    def _done(self, item: OutputItem, status: str) -> list[bytes]:
        said = {"refusal" if item.kind == "refusal" else "text": item.text}
        if item.kind == "function_call":
            said = {"name": item.name, "arguments": item.text}
        out = [self._event(f"{DELTAS[item.kind]}.done", {**self._where(item), **said})]
        if item.kind != "function_call":
            part = {"item_id": item.id, "output_index": item.place, "content_index": 0, "part": item.part(item.text)}
            out.append(self._event("response.content_part.done", part))
        done = {"output_index": item.place, "item": item.body(status)}
        return [*out, self._event("response.output_item.done", done)]

    def _where(self, item: OutputItem) -> dict[str, Any]:
        where: dict[str, Any] = {"item_id": item.id, "output_index": item.place}
        if item.kind != "function_call":
            where["content_index"] = 0
        return where | ({"logprobs": []} if item.kind == "message" else {})

    def _response(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return response(self._id, self._model, self._created, status, output, **more)

    def _event(self, kind: str, body: dict[str, Any]) -> bytes:
        event = {"type": kind, **body, "sequence_number": self._number}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), surfaces.encode(event))
