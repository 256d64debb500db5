"""Request bodies: defaults, ranges, unknown and unsupported fields, each refused with the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.engines.wire import ChatBody, Defaults, RequestError, TextBody, decode, messages_of, settings_of

MESSAGES = [{"role": "user", "content": "hi"}]


def _chat(**fields: Any) -> ChatBody:
    return decode(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode(), ChatBody)


def test_silent_request_takes_the_defaults_of_the_folder() -> None:
    defaults = Defaults.of({"temperature": 0.3, "top_k": 7, "max_new_tokens": 11, "eos_token_id": 1, "top_p": None})
    settings = settings_of(_chat(), defaults, 100)
    assert (settings.temperature, settings.top_k, settings.top_p, settings.max_tokens) == (0.3, 7, 1.0, 11)


def test_request_wins_over_the_defaults() -> None:
    body = _chat(temperature=0, max_tokens=5, max_completion_tokens=3, stop="x", logit_bias={"4": -100}, top_k=-1)
    settings = settings_of(body, Defaults(temperature=1, top_k=9), 100)
    assert (settings.temperature, settings.max_tokens, settings.stop, settings.top_k) == (0, 3, ("x",), 0)
    assert settings.logit_bias == ((4, -100.0),)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 99}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"presence_penalty": 5}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"stop": ["a", ""]}, "stop"),
        ({"bad_words": [""]}, "bad_words"),
        ({"stop": ["a"] * 17}, "stop"),
    ],
)
def test_value_out_of_range_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError) as caught:
        settings_of(_chat(**fields), Defaults(), 100)
    assert (caught.value.status, caught.value.param) == (400, named)


@pytest.mark.parametrize(
    "fields",
    [{"tools": {}}, {"logprobs": True}, {"chat_template": "x"}, {"echo": True}, {"modalities": ["audio"]},
     {"temperature": "hot"}, {"structured_outputs": {"jsn": 1}}, {"messages": "hi"}],
)  # fmt: skip
def test_unknown_unsupported_and_mistyped_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        _chat(**fields)
    assert caught.value.status == 400


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 1, "prompt": "a"}'])
def test_a_body_that_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        decode(raw, TextBody)


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = _chat(messages=[{"role": "user", "content": parts, "name": "bob"}])
    assert messages_of(body) == [{"role": "user", "content": "ab", "name": "bob"}]
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    for message in ({"role": "user", "content": [image]}, {"role": "user", "content": None}, {"content": "x"}):
        with pytest.raises(RequestError):
            messages_of(_chat(messages=[message]))
    with pytest.raises(RequestError):
        messages_of(_chat(messages=[]))


def test_choices_of_a_seed_differ_and_repeat() -> None:
    settings = settings_of(_chat(seed=5), Defaults(), 100)
    assert settings.rng(0).random() == settings.rng(0).random() != settings.rng(1).random()
