"""The model that is measured, and the judge, as inspect-ai models: `hallmark/<name>` over a client of ours."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from inspect_ai.log._samples import sample_active
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.model._call_tools import parse_tool_call
from inspect_ai.model._reasoning import parse_content_with_reasoning
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo

from evals.harness.provider import Answer, Client
from registry.errors import SpecError

_SETTINGS = {
    "max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "seed": "seed",
    "stop_seqs": "stop", "frequency_penalty": "frequency_penalty", "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias", "reasoning_effort": "reasoning_effort",
}  # fmt: skip
_REASONS: dict[str, StopReason] = {
    "stop": "stop", "length": "max_tokens", "content_filter": "content_filter", "tool_calls": "tool_calls",
    "model_length": "model_length",
}  # fmt: skip
_PLAIN = {"text", "reasoning"}
"""Kinds of content that can be sent as text."""


@dataclass
class Cost:
    """What one sample's answers cost."""

    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class HallmarkModel(ModelAPI):  # type: ignore[misc]
    """Sends an inspect-ai task's messages and tools through a client; a failure of it is an error of the sample.

    `costs` holds what each sample's answers cost, by scope (see `scope_of`). A model without a client refuses: it
    stands where a task asks for a grader and the KPI names no judge; `refused` says that it was asked.
    """

    def __init__(
        self, model_name: str, base_url: str | None = None, api_key: str | None = None,
        config: GenerateConfig | None = None, *, client: Client | None, **_: Any,
    ) -> None:  # fmt: skip
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.client = client
        self.costs: dict[str, Cost] = defaultdict(Cost)
        self.refused = False

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Return the answer. `metadata` holds `texts`, every text that came back, `blocked` and `rules`.

        Raises:
            SpecError: there is no client, or a message holds more than text.
            EngineFailure: see `Client.chat`.
        """
        if self.client is None:
            self.refused = True
            raise SpecError("the task asks a grader, and the KPI names no `judge`", hint="add `judge` to the KPI")
        settings: dict[str, Any] = {
            field: getattr(config, name) for name, field in _SETTINGS.items() if getattr(config, name) is not None
        }
        if config.response_schema is not None:
            schema = config.response_schema.model_dump(exclude_none=True)
            schema["schema"] = schema.pop("json_schema")
            settings["response_format"] = {"type": "json_schema", "json_schema": schema}
        if tools:
            settings["tools"] = [_tool(tool) for tool in tools]
            settings["tool_choice"] = _choice(tool_choice)
            if config.parallel_tool_calls is not None:
                settings["parallel_tool_calls"] = config.parallel_tool_calls
        scope = scope_of()
        answer = await self.client.chat(
            [_message(message) for message in input], {**settings, **(config.extra_body or {})}, scope=scope
        )
        cost = self.costs[scope]
        cost.latency_ms += answer.latency_ms
        cost.prompt_tokens += answer.usage.get("prompt_tokens", 0)
        cost.completion_tokens += answer.usage.get("completion_tokens", 0)
        return _output(self.model_name, answer, tools)

    async def count_text_tokens(self, text: str) -> int:
        """Estimate from the number of bytes: the default would download an encoding."""
        return max(1, len(text.encode("utf-8", "replace")) // 3)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        if self.client is not None:
            await self.client.aclose()

    def auto_reasoning_history(self) -> str:
        """Reasoning of earlier turns is not sent back: what a chat template would make of it differs by engine."""
        return "none"

    def connection_key(self) -> str:
        """The measured model and its judge have limits of their own."""
        return str(self.model_name)

    def should_retry(self, ex: BaseException) -> bool:
        """Never: the client has its own few retries, and an error must show."""
        return False


def scope_of(sample: str | None = None, epoch: int | None = None) -> str:
    """Return the name of a sample's run: the given one, or the one that asks now; empty outside of samples."""
    if sample is None:
        active = sample_active()
        if active is None:
            return ""
        sample, epoch = str(active.sample.id), active.epoch
    return f"{sample}/{epoch}"


def _tool(tool: ToolInfo) -> dict[str, Any]:
    parameters = tool.parameters.model_dump(mode="json", exclude_none=True, by_alias=True)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> Any:
    if isinstance(choice, ToolFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice == "any" else choice


def _message(message: ChatMessage) -> dict[str, Any]:
    """Return a message as the API takes it. Raises SpecError for content that is no text."""
    if not isinstance(message.content, str):
        other = next((part.type for part in message.content if part.type not in _PLAIN), None)
        if other is not None:
            raise SpecError(f"a message holds content of type `{other}`", hint="only text can be sent to the model")
    sent: dict[str, Any] = {"role": message.role, "content": _clean(message.text)}
    if message.role == "tool":
        sent["content"] = _clean(f"Error: {message.error.message}" if message.error else message.text)
        sent["tool_call_id"] = str(message.tool_call_id)
    elif message.role == "assistant" and message.tool_calls:
        sent["tool_calls"] = [_sent_call(call) for call in message.tool_calls]
    return sent


def _sent_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function, "arguments": _clean(json.dumps(call.arguments, default=str))}
    return {"id": call.id, "type": "function", "function": function}


def _clean(text: str) -> str:
    """Return the text without lone surrogates, which no digest or engine can take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _output(model: str, answer: Answer, tools: list[ToolInfo]) -> ModelOutput:
    content, found = parse_content_with_reasoning(answer.content)
    reasoning = answer.reasoning or (found.reasoning if found else "")
    parts = [ContentReasoning(reasoning=reasoning), ContentText(text=content)] if reasoning else content
    calls = [_received_call(call, number, tools) for number, call in enumerate(answer.tool_calls)]
    message = ChatMessageAssistant(content=parts, tool_calls=calls or None, model=model, source="generate")
    stopped = _REASONS.get(answer.finish_reason, "unknown")
    choice = ChatCompletionChoice(message=message, stop_reason="tool_calls" if calls else stopped)
    sent, got = answer.usage.get("prompt_tokens", 0), answer.usage.get("completion_tokens", 0)
    return ModelOutput(
        model=model, choices=[choice], usage=ModelUsage(input_tokens=sent, output_tokens=got, total_tokens=sent + got),
        metadata={"texts": list(answer.texts), "blocked": answer.blocked, "rules": list(answer.rules)},
    )  # fmt: skip


def _received_call(call: dict[str, Any], number: int, tools: list[ToolInfo]) -> ToolCall:
    """Return a call as inspect-ai runs it; arguments that are no JSON object become the call's parse error."""
    function = call.get("function") or {}
    name, arguments = str(function.get("name") or ""), function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return parse_tool_call(str(call.get("id") or f"call_{number}"), name, text, tools)


@modelapi(name="hallmark")  # type: ignore[untyped-decorator]
def hallmark() -> type[ModelAPI]:
    """Name the provider to inspect-ai."""
    return HallmarkModel
