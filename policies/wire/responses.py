"""POST /v1/responses without state: the request's type, and the chat request that asks the engine the same.

Both engines and all rules see a chat; `policies/wire/responses_answer.py` turns what they release back. Nothing is
stored, so whatever refers to an earlier response is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, final

from msgspec import Meta

from policies.wire.refusal import Refusal
from policies.wire.request_types import (
    WITHOUT_EFFECT,
    ChatRequest,
    Count,
    Decoding,
    Function,
    FunctionCall,
    JsonSchema,
    Message,
    Name,
    NamedFunction,
    NamedTool,
    Nothing,
    ResponseFormat,
    Short,
    TextPart,
    Tool,
    ToolCall,
    Wire,
)

ItemId = Annotated[str, Meta(max_length=256)]
Status = Literal["in_progress", "completed", "incomplete"]


class Part(Wire):
    """A piece of content: the caller's text, or the model's as it was returned."""

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text", "text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: Nothing | None = None
    logprobs: Nothing | None = None


class Item(Wire):
    """One item of the input. A message may leave `type` out; `status` and ids of returned items are not used."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] | None = None
    id: ItemId | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None
    caller: None = None
    namespace: None = None
    encrypted_content: None = None


class FunctionTool(Wire):
    """A function the model may call; tools that the service itself would run are refused."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Wire):
    """What form the answer has: `json_schema` comes with a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Short | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Wire):
    """The answer's form; `verbosity` would change the template."""

    format: TextFormat | None = None
    verbosity: None = None


class ReasoningOptions(Wire):
    """Accepted as null only: effort would change the template, a summary is not made."""

    effort: None = None
    summary: None = None
    generate_summary: None = None


class ToolByName(Wire):
    """The one tool that must be called."""

    type: Literal["function"]
    name: Name


class ResponseStreamOptions(Wire):
    """Padding against observers of the line is TLS's and not done."""

    include_obfuscation: Literal[False] | None = None


@final
class ResponsesRequest(Decoding, kw_only=True):
    """POST /v1/responses."""

    model: str
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolByName | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["disabled"] | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    include: Nothing | None = None
    top_logprobs: Literal[0] | None = None
    previous_response_id: None = None  # null only, like the rest
    context_management: None = None
    max_tool_calls: None = None
    moderation: None = None
    conversation: None = None
    prompt: None = None


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """Return the chat request that asks the same; raises Refusal for an item that is not whole."""
    messages = [Message(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        messages.append(Message(role="user", content=request.input))
    else:
        messages.extend(_turns(request.input))
    return ChatRequest(
        model=request.model,
        messages=messages,
        stream=request.stream,
        max_tokens=request.max_output_tokens,
        tools=_tools(request),
        tool_choice=_choice(request),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_format(request.text),
        **{name: getattr(request, name) for name in Decoding.__struct_fields__ if name not in WITHOUT_EFFECT},
    )


def _turns(items: Sequence[Item]) -> list[Message]:
    """Return the turns of a conversation: calls and reasoning join the assistant's turn that they belong to."""
    turns: list[Message] = []
    thought = ""
    for number, item in enumerate(items):
        place = f"input[{number}]"
        if item.type == "reasoning":
            thought += _reasoning(item, place)
        elif item.type == "function_call":
            turn = turns[-1] if turns and turns[-1].role == "assistant" else Message(role="assistant")
            if not turns or turn is not turns[-1]:
                turns.append(turn)
            turn.tool_calls = [*(turn.tool_calls or ()), _call(item, place)]
        elif item.type == "function_call_output":
            content = _text(_given(item.output, f"{place}.output"), f"{place}.output")
            call_id = _given(item.call_id, f"{place}.call_id")
            turns.append(Message(role="tool", content=content, tool_call_id=call_id))
        else:
            role = _given(item.role, f"{place}.role")
            turns.append(Message(role=role, content=_text(_given(item.content, f"{place}.content"), place)))
        if thought and turns and turns[-1].role == "assistant":
            turns[-1].reasoning, thought = thought, ""
    return turns


def _call(item: Item, place: str) -> ToolCall:
    function = FunctionCall(
        name=_given(item.name, f"{place}.name"), arguments=_given(item.arguments, f"{place}.arguments")
    )
    return ToolCall(id=_given(item.call_id, f"{place}.call_id"), type="function", function=function)


def _reasoning(item: Item, place: str) -> str:
    """Return the reasoning itself, or its summary where that is all there is."""
    parts = item.content or item.summary or []
    text = _text(parts, place)
    return text if isinstance(text, str) else "".join(part.text for part in text)


def _text(content: str | Sequence[Part], place: str) -> str | list[TextPart]:
    """Return content as a message takes it: one text, or several parts."""
    if isinstance(content, str):
        return content
    texts = [_given(part.refusal if part.type == "refusal" else part.text, f"{place}.text") for part in content]
    return texts[0] if len(texts) == 1 else [TextPart(type="text", text=text) for text in texts]


def _given(value: Any, place: str) -> Any:
    if value is None:
        raise Refusal(400, "invalid_field", f"`{place}` is missing", param=place)
    return value


def _tools(request: ResponsesRequest) -> list[Tool] | None:
    if request.tools is None:
        return None
    return [
        Tool(
            type="function",
            function=Function(
                name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
            ),
        )
        for tool in request.tools
    ]


def _choice(request: ResponsesRequest) -> Literal["none", "auto", "required"] | NamedTool | None:
    wanted = request.tool_choice
    if isinstance(wanted, ToolByName):
        return NamedTool(type="function", function=NamedFunction(name=wanted.name))
    return wanted


def _format(options: TextOptions | None) -> ResponseFormat | None:
    wanted = options.format if options is not None else None
    if wanted is None:
        return None
    schema = JsonSchema(schema=wanted.schema) if wanted.schema is not None else None
    return ResponseFormat(type=wanted.type, json_schema=schema)
