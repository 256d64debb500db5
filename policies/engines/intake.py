"""From a checked request body to queued sequences: prompts, limits and constraints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from policies.engines.batcher import Batcher
from policies.engines.constraints import Constraints, forbidden_grammar, grammar_of, json_grammar
from policies.engines.decoding import News, Sequence
from policies.engines.text_stream import TextStream
from policies.engines.tool_calls import Offer, past_calls
from policies.engines.wire import ChatBody, Defaults, RequestError, Settings, TextBody, messages_of, settings_of

MOST_WAITING = 1024
MOST_PROMPTS = 64
HEAVY_CHARACTERS = 20_000


class Intake:
    """Builds the sequences of a request.

    Args:
        tokenizer: the transformers tokenizer of the folder.
        template: the Jinja chat template, None when the folder has none.
        context: the most tokens of prompt and text together.
        vocab_size: tokens the model knows.
        defaults: sampling where a request is silent.
        constraints: compiles grammars.
        batcher: runs the sequences.
    """

    def __init__(
        self, tokenizer: Any, template: str | None, context: int, vocab_size: int, defaults: Defaults,
        constraints: Constraints, batcher: Batcher,
    ) -> None:  # fmt: skip
        self._tokenizer, self._template, self._vocab_size = tokenizer, template, vocab_size
        self._backend = tokenizer.backend_tokenizer
        self._defaults, self._constraints, self._batcher = defaults, constraints, batcher
        self.context = context
        self.created = int(time.time())

    def is_heavy(self, body: ChatBody | TextBody) -> bool:
        """Say whether `sequences` may take milliseconds, so that it should not run in the event loop."""
        if body.structured_outputs or body.response_format or body.bad_words:
            return True
        if isinstance(body, ChatBody):
            if body.tools:
                return True
            return sum(len(str(message.get("content"))) for message in body.messages) > HEAVY_CHARACTERS
        return isinstance(body.prompt, list) or len(body.prompt) > HEAVY_CHARACTERS

    def sequences(
        self, body: ChatBody | TextBody, receive: Callable[[News], None], offer: Offer | None = None, adapter: str = ""
    ) -> list[Sequence]:
        """Return one sequence per prompt and choice; RequestError when the request cannot be served. Thread safe.

        `offer` is what a chat offers of tools, `adapter` the LoRA adapter to decode with.
        """
        settings = settings_of(body, self._defaults, self._vocab_size)
        grammar = grammar_of(body)
        if offer is not None and offer.schema is not None:
            if grammar is not None:
                raise RequestError("a forced tool call and a constraint exclude each other", param="tool_choice")
            grammar = json_grammar(offer.schema)
        prompts = [self._chat_prompt(body, offer)] if isinstance(body, ChatBody) else self._text_prompts(body)
        made: list[Sequence] = []
        for prompt in prompts:
            limit = self._limit(prompt, settings)
            for _ in range(body.n):
                matchers = [] if grammar is None else [self._constraints.matcher(grammar)]
                if settings.bad_words:
                    matchers.append(self._constraints.matcher(forbidden_grammar(settings.bad_words)))
                text = TextStream(self._backend, settings.stop, stream=body.stream)
                made.append(
                    Sequence(
                        len(made),
                        prompt,
                        settings,
                        limit,
                        receive,
                        text,
                        matchers=matchers,
                        structured=grammar is not None,
                        adapter=adapter,
                    )
                )
        return made

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue sequences; RequestError (503) when too many wait already."""
        if self._batcher.load + len(sequences) > MOST_WAITING:
            raise RequestError("the engine has too many requests waiting", status=503, code="overloaded")
        self._batcher.submit(sequences)

    def counts(self) -> dict[str, int]:
        """Return how many sequences are here now, and the tokens generated since the start."""
        return {"sequences": self._batcher.load, "generated_tokens": self._batcher.generated}

    def _chat_prompt(self, body: ChatBody, offer: Offer | None) -> list[int]:
        messages = messages_of(body)
        for number, message in enumerate(messages):
            if "tool_calls" in message:
                message["tool_calls"] = past_calls(message["tool_calls"], f"messages[{number}]")
        if self._template is None:
            raise RequestError("the model has no chat template", param="messages", code="no_chat_template")
        if offer is not None and offer.choice == "auto" and "tools" not in self._template:
            message_text = "the chat template shows the model no tools: name one in `tool_choice`, or require one"
            raise RequestError(message_text, param="tools", code="unsupported_value")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=None if offer is None else offer.shown, chat_template=self._template, tokenize=False,
                add_generation_prompt=True,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - the template is a program that may raise anything
            raise RequestError(f"the chat template refuses these messages: {error}", param="messages") from None
        return self._encode(text, special=False)

    def _text_prompts(self, body: TextBody) -> list[list[int]]:
        given: list[Any] = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt)
        if given and all(isinstance(token, int) for token in given):
            given = [given]
        if any(isinstance(one, int) for one in given):
            raise RequestError("`prompt` mixes token ids with texts or lists", param="prompt")
        if not given or len(given) > MOST_PROMPTS:
            raise RequestError(f"`prompt` must hold 1 to {MOST_PROMPTS} prompts", param="prompt")
        prompts = [self._encode(one, special=True) if isinstance(one, str) else list(one) for one in given]
        if any(not 0 <= token < self._vocab_size for prompt in prompts for token in prompt):
            raise RequestError("`prompt` holds a token id outside the vocabulary", param="prompt")
        return prompts

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        return ids

    def _limit(self, prompt: list[int], settings: Settings) -> int:
        room = self.context - len(prompt)
        if not prompt:
            raise RequestError("the prompt is empty", param="prompt")
        if room < 1 or (settings.max_tokens or 0) > room:
            asked = f" and {settings.max_tokens} for the text" if settings.max_tokens else ""
            raise RequestError(
                f"this model's maximum context length is {self.context} tokens; you asked for {len(prompt)} in the "
                f"prompt{asked}",
                param="max_tokens" if room >= 1 else "messages",
                code="context_length_exceeded",
            )
        return settings.max_tokens or room
