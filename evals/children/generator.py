"""Weights in process as a chat model: the folder's own template and generation defaults, no endpoint, no guard."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from evals.cache import AnswerCache
from evals.children.weights.causal_lm import CausalLM
from evals.harness.provider import Client

MOST_NEW_TOKENS = 512
"""How much is said where neither the request nor the folder sets a limit: on a CPU a whole context would take hours."""
_KNOWN = {"model", "messages", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "tools", "tool_choice"}
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_CALLS = re.compile(r"\[TOOL_CALLS\]\s*(\[.*\])", re.DOTALL)


class Generator:
    """Completes chats with the weights in a folder, one at a time.

    Args:
        folder: configuration, tokenizer and safetensors weights.
        random_seed: a number makes new weights from the configuration: the null model.
        system_prompt: replaces every system message; empty for none.
    """

    def __init__(self, folder: Path, random_seed: int | None = None, system_prompt: str = "") -> None:
        self._lm = CausalLM(folder, random_seed=random_seed)
        self._system_prompt = system_prompt
        self._lock = threading.Lock()
        self._defaults = GenerationConfig()
        if (folder / "generation_config.json").is_file():
            self._defaults = GenerationConfig.from_pretrained(folder, local_files_only=True)

    def complete(self, body: dict[str, Any], repeat: int = 0) -> tuple[int, dict[str, Any]]:
        """Return (status, answer) of a chat request, in the shape of the OpenAI API.

        Args:
            body: the request; fields that would need a constrained decoder are refused with status 400.
            repeat: how often this body was asked before: it varies the draw where the request sets no seed.
        """
        unknown = sorted(set(body) - _KNOWN)
        if unknown:
            return _refusal(f"weights in process know no `{unknown[0]}`", "forbidden_field")
        try:
            prompt = self._prompt(body)
        except Exception as error:  # noqa: BLE001 - a chat template is a program that may raise anything
            return _refusal(f"the chat template refuses these messages: {error}", "bad_messages")
        ids = self._lm.tokens.encode(prompt) if self._plain else self._special(prompt)
        room = self._lm.max_length - len(ids)
        if room < 1:
            return _refusal("the prompt exceeds the maximum context length", "context_length_exceeded")
        with self._lock:
            new = self._generate(ids, body, room, repeat)
        return 200, self._answer(body, len(ids), new)

    @property
    def _plain(self) -> bool:
        return self._lm.tokens.tokenizer.chat_template is None

    def _prompt(self, body: dict[str, Any]) -> str:
        messages = [_templated(message) for message in body["messages"]]
        if self._system_prompt:
            rest = [message for message in messages if message["role"] not in ("system", "developer")]
            messages = [{"role": "system", "content": self._system_prompt}, *rest]
        if self._plain:  # a base model: what it is asked is simply what it goes on from
            return "\n\n".join(message["content"] for message in messages)
        tools = body.get("tools") if body.get("tool_choice") != "none" else None
        return str(
            self._lm.tokens.tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True
            )
        )

    def _special(self, prompt: str) -> list[int]:
        """Return the ids of a templated prompt, whose special tokens the template wrote."""
        return list(self._lm.tokens.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])

    def _generate(self, ids: list[int], body: dict[str, Any], room: int, repeat: int) -> list[int]:
        given = [self._lm.tokens.prefix, *ids][-self._lm.max_length + 1 :] if self._plain else ids
        config = GenerationConfig.from_dict(self._defaults.to_dict())
        limit = body.get("max_tokens") or self._defaults.max_new_tokens or MOST_NEW_TOKENS
        config.max_new_tokens, config.max_length = max(1, min(int(limit), self._lm.max_length - len(given))), None
        if body.get("temperature") is not None:
            config.do_sample = body["temperature"] > 0
            config.temperature = body["temperature"] or 1.0
        for name in ("top_p", "top_k"):
            if body.get(name) is not None:
                setattr(config, name, body[name])
        if not config.do_sample:
            config.temperature = config.top_p = config.top_k = None
        if config.pad_token_id is None:
            config.pad_token_id = self._lm.tokens.prefix
        torch.manual_seed(int(body["seed"]) if body.get("seed") is not None else _seed(body, repeat))
        inputs = torch.tensor([given])
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop")
        with torch.inference_mode():
            out = self._lm.model.generate(
                inputs, attention_mask=torch.ones_like(inputs), generation_config=config,
                stop_strings=stops or None, tokenizer=self._lm.tokens.tokenizer if stops else None,
            )  # fmt: skip
        return [int(token) for token in out[0, len(given) :]]

    def _answer(self, body: dict[str, Any], sent: int, new: list[int]) -> dict[str, Any]:
        tokenizer = self._lm.tokens.tokenizer
        text = str(tokenizer.decode(new, skip_special_tokens=not body.get("tools")))
        ended = bool(new) and new[-1] in self._ends()
        if body.get("tools") and ended:
            text = text.removesuffix(str(tokenizer.decode(new[-1:])))
        for stop in [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []:
            if stop in text:
                text, ended = text.split(stop, 1)[0], True
        message: dict[str, Any] = {"role": "assistant", "content": text}
        calls = _tool_calls(text) if body.get("tools") else []
        if calls:
            message = {"role": "assistant", "content": _CALLS.sub("", _CALL.sub("", text)).strip(), "tool_calls": calls}
        reason = "tool_calls" if calls else "stop" if ended else "length"
        usage = {"prompt_tokens": sent, "completion_tokens": len(new)}
        return {"object": "chat.completion", "usage": usage,
                "choices": [{"index": 0, "message": message, "finish_reason": reason}]}  # fmt: skip

    def _ends(self) -> set[int]:
        ends = self._lm.model.generation_config.eos_token_id
        return (
            set(ends)
            if isinstance(ends, list)
            else {ends if ends is not None else self._lm.tokens.tokenizer.eos_token_id}
        )


class WeightsClient(Client):
    """A client whose endpoint is a generator in this process; answers are kept as those of any other."""

    generator: Generator

    @classmethod
    def of(cls, generator: Generator, answers: str, identity: dict[str, Any]) -> WeightsClient:
        """Return a client of a loaded generator."""
        target = {"base_url": "weights", "api_key": "", "headers": {}, "model": "weights"}
        made = cls(target, AnswerCache(Path(answers), identity))
        made.generator, made.repeats = generator, Counter()
        return made

    repeats: Counter[str]

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        asked = body or {}
        name = json.dumps(asked, sort_keys=True)
        repeat = self.repeats[name]
        self.repeats[name] += 1
        return await asyncio.to_thread(self.generator.complete, asked, repeat)


def _templated(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as chat templates take it: a call's arguments are an object there, not a text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        calls.append({**call, "function": {**function, "arguments": json.loads(function["arguments"])}})
    return {**message, "tool_calls": calls}


def _tool_calls(text: str) -> list[dict[str, Any]]:
    """Return the calls in an answer, written `<tool_call>{...}</tool_call>` or `[TOOL_CALLS][{...}]`."""
    found = list(_CALL.findall(text))
    listed = _CALLS.search(text)
    if listed:
        try:
            found += [json.dumps(entry) for entry in json.loads(listed.group(1))]
        except ValueError:
            found.append(listed.group(1))
    return [_tool_call(entry, number) for number, entry in enumerate(found)]


def _tool_call(text: str, number: int) -> dict[str, Any]:
    """Return one call; where its text is no JSON object, the text itself is its arguments and fails to parse later."""
    try:
        entry = json.loads(text)
        name, arguments = str(entry["name"]), json.dumps(entry.get("arguments", entry.get("parameters", {})))
    except (ValueError, KeyError, TypeError, AttributeError):
        name, arguments = "unknown", "{" + text
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _seed(body: dict[str, Any], repeat: int) -> int:
    digest = hashlib.blake2b(json.dumps([body, repeat], sort_keys=True).encode(), digest_size=7).digest()
    return int.from_bytes(digest)


def _refusal(message: str, code: str) -> tuple[int, dict[str, Any]]:
    return 400, {"error": {"message": message, "code": code}}
