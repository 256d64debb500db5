"""What was released, as a response of OpenAI's Responses API: its items, its usage, and how it ended.

The caller's own texts (instructions, metadata, tools) are not repeated in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from policies.wire import surfaces
from policies.wire.surfaces import ChatAnswer, Usage

_MARKS = {"message": "msg", "refusal": "msg", "reasoning": "rs", "function_call": "fc"}
CHANNELS = {"reasoning": "reasoning", "reasoning_content": "reasoning", "content": "message", "refusal": "refusal"}
"""The item that each text channel of a chat becomes: one for each, since each was checked as a text of its own."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons that leave a response incomplete, and what it calls them."""


@dataclass(slots=True)
class OutputItem:
    """An item as it grows: `kind` is a value of `CHANNELS` or `function_call`, `texts` the released pieces of it."""

    kind: str
    id: str
    place: int
    texts: list[str] = field(default_factory=list)
    name: str = ""
    call_id: str = ""

    @property
    def text(self) -> str:
        """All of it that was released."""
        return "".join(self.texts)

    def body(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        """Return the item as it is sent; `empty` as it is announced, before any of its text."""
        said = {"id": self.id, "type": "message" if self.kind == "refusal" else self.kind, "status": status}
        if self.kind == "function_call":
            arguments = "" if empty else self.text
            return {**said, "call_id": self.call_id, "name": self.name, "arguments": arguments}
        more: dict[str, Any] = {"summary": []} if self.kind == "reasoning" else {"role": "assistant"}
        return {**said, **more, "content": [] if empty else [self.part(self.text)]}

    def part(self, text: str) -> dict[str, Any]:
        """Return the one part of content that a message or a reasoning has."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response(
    answer_id: str, model: str, created: int, status: str, output: list[dict[str, Any]], *,
    usage: Usage | None = None, reason: str = "", error: dict[str, object] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return a response object. `reason` is why it is incomplete; `error` why it failed."""
    return {
        "id": answer_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "background": False,
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": usage_of(usage),
        "user": None,
    }


def usage_of(usage: Usage | None) -> dict[str, Any] | None:
    """Return the token counts as a response names them; None where the engine did not say them."""
    if usage is None:
        return None
    written = usage.completion_tokens or 0
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + written,
    }


def whole(answer: ChatAnswer) -> bytes:
    """Return a whole chat answer as the body of a response."""
    choice = answer.choices[0]
    said = choice.message
    items: list[OutputItem] = []

    def add(kind: str, text: str, **more: str) -> None:
        items.append(OutputItem(kind, item_id(kind, answer.id, len(items)), len(items), [text], **more))

    for channel, kind in CHANNELS.items():
        text = getattr(said, channel)
        if isinstance(text, str) and text:
            add(kind, text)
    calls = said.tool_calls if isinstance(said.tool_calls, list) else []
    if not items and not calls:
        add("message", "")
    for call in calls:
        function = call.function or surfaces.FunctionPiece()
        add("function_call", function.arguments or "", name=function.name or "", call_id=call.id or "")
    reason = INCOMPLETE.get(choice.finish_reason or "", "")
    status = "incomplete" if reason else "completed"
    output = [item.body(status if item is items[-1] else "completed") for item in items]
    return surfaces.encode(
        response(answer.id, answer.model, answer.created, status, output, usage=answer.usage, reason=reason)
    )


def item_id(kind: str, answer_id: str, place: int) -> str:
    """Return the id of an item: its kind, the response, and its place in the output."""
    return f"{_MARKS[kind]}_{answer_id}_{place}"
