"""The guarded endpoint as an inspect-ai model: `hallmark/<name>`."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from evals.harness.provider import Answer, Client

_SETTINGS = {"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed",
             "stop_seqs": "stop", "frequency_penalty": "frequency_penalty",
             "presence_penalty": "presence_penalty"}  # fmt: skip
_REASONS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter", "tool_calls": "tool_calls"}


class GuardedModel(ModelAPI):  # type: ignore[misc]
    """Sends an inspect-ai task's messages to the endpoint; errors of the endpoint are errors of the sample."""

    def __init__(
        self, model_name: str, base_url: str | None = None, api_key: str | None = None,
        config: GenerateConfig | None = None, *, client: Client, **_: Any,
    ) -> None:  # fmt: skip
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.client = client

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Return the endpoint's answer. `metadata` holds `texts`, every text it returned, `blocked` and `rules`."""
        if tools:
            raise NotImplementedError("tools are not offered to the guarded endpoint")
        messages = [{"role": message.role, "content": message.text} for message in input]
        asked = {field: getattr(config, name) for name, field in _SETTINGS.items() if getattr(config, name) is not None}
        answer = await self.client.chat(messages, {**asked, **(config.extra_body or {})})
        return _output(self.model_name, answer)

    async def count_text_tokens(self, text: str) -> int:
        """Estimate from the number of bytes: the default would download an encoding."""
        return max(1, len(text.encode("utf-8", "replace")) // 3)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self.client.aclose()

    def should_retry(self, ex: BaseException) -> bool:
        """Never: the client has its own few retries, and an error must show."""
        return False


def _output(model: str, answer: Answer) -> ModelOutput:
    message = ChatMessageAssistant(content=answer.content, model=model, source="generate")
    choice = ChatCompletionChoice(message=message, stop_reason=_REASONS.get(answer.finish_reason, "unknown"))
    sent, got = answer.usage.get("prompt_tokens", 0), answer.usage.get("completion_tokens", 0)
    return ModelOutput(
        model=model, choices=[choice], usage=ModelUsage(input_tokens=sent, output_tokens=got, total_tokens=sent + got),
        metadata={"texts": list(answer.texts), "blocked": answer.blocked, "rules": list(answer.rules)},
    )  # fmt: skip


@modelapi(name="hallmark")  # type: ignore[untyped-decorator]
def hallmark() -> type[ModelAPI]:
    """Name the provider to inspect-ai."""
    return GuardedModel
