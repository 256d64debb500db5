"""The field allow-list of chat completions and completions, as types: what is not named here never gets in.

Names and ranges are OpenAI's, and vLLM's where OpenAI has none. Fields marked so are accepted without effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

from msgspec import Meta, Struct

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Stop = Annotated[str, Meta(min_length=1, max_length=256)]
Short = Annotated[str, Meta(max_length=256)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Metadata = dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]]
Nothing = Annotated[list[None], Meta(max_length=0)]


class Wire(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Closed to unknown fields; absent fields stay absent when encoded."""


class TextPart(Wire):
    """One text part of a message; other kinds of part are refused."""

    type: Literal["text"]
    text: str


class FunctionCall(Wire):
    """The function a past assistant turn called."""

    name: Name
    arguments: str


class ToolCall(Wire):
    """A tool call of a past assistant turn."""

    id: Name
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Message(Wire):
    """One turn. Fields that OpenAI's client sends back as null are accepted as null only."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=256)] | None = None
    tool_call_id: Name | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Nothing | None = None


class Function(Wire):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    """A tool; only functions exist."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """The name of a function."""

    name: Name


class NamedTool(Wire):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Wire):
    """A schema for the answer; `name` and `description` are not sent on."""

    schema: dict[str, Any]
    name: Short | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Wire):
    """What form the answer has: `json_schema` comes with a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Wire):
    """Whether a last chunk carries the token counts. Padding against observers of the line is TLS's and not done."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(Wire):
    """A decode-time constraint in the engine's terms: exactly one of its fields."""

    json: dict[str, Any] | str | None = None
    regex: Annotated[str, Meta(max_length=4096)] | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=1024)] | None = None


class Unused(Wire):
    """Fields that are accepted and not sent on."""

    user: Short | None = None
    metadata: Annotated[Metadata, Meta(max_length=16)] | None = None
    service_tier: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Short | None = None


WITHOUT_EFFECT = Unused.__struct_fields__


class Decoding(Unused):
    """How each token is chosen: what all generating surfaces share."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    seed: Seed | None = None
    structured_outputs: StructuredOutputs | None = None


class Sampling(Decoding, kw_only=True):
    """What chat completions and completions share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | int | None = None
    logit_bias: None = None


@final
class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Count | None = None
    tools: Annotated[list[Tool], Meta(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    modalities: Annotated[list[Literal["text"]], Meta(max_length=1)] | None = None
    store: Literal[False] | None = None
    audio: None = None  # known to OpenAI's client, and null only, like the rest
    function_call: None = None
    functions: None = None
    moderation: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None


@final
class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions; prompts are text, never token ids. With `suffix`, the answer fills the middle."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=16)]
    suffix: str | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


Generating = ChatRequest | CompletionRequest
