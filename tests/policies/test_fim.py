"""Fill-in-the-middle: the tokenizer says how, the endpoint builds the prompt, no caller can spell the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.wire import fim
from policies.wire.control_tokens import ControlTokens
from tests.policies.asking import client, post
from tests.policies.running import CARD, Running

TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
PATH = "/v1/completions"


@pytest.fixture
def filling(run: Running) -> Iterator[Running]:
    """The shared gateway while its model has the tokens."""
    before, control = run.desk.served, run.desk.control
    run.desk.served = replace(before, fim=TOKENS, control_tokens=TOKENS)
    run.desk.control = ControlTokens(TOKENS)
    yield run
    run.desk.served, run.desk.control = before, control


def write_tokenizer(folder: Path, tokens: list[Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": token} for token in tokens]}))
    return folder


@pytest.mark.parametrize("family", fim.FAMILIES, ids=lambda family: family[0])
def test_every_family_is_recognised(tmp_path: Path, family: tuple[str, str, str]) -> None:
    assert fim.tokens_of(write_tokenizer(tmp_path, ["<s>", *[token for token in family if token]])) == family


def test_a_tokenizer_without_them_has_none(tmp_path: Path) -> None:
    assert fim.tokens_of(tmp_path) is None
    assert fim.tokens_of(write_tokenizer(tmp_path, ["<s>", "<|fim_prefix|>", "<|fim_suffix|>"])) is None
    (tmp_path / "tokenizer.json").write_text("[]")
    assert fim.tokens_of(tmp_path) is None


def test_the_prompt_is_built_from_the_tokens(filling: Running) -> None:
    client(filling).completions.create(model="stdlib", prompt="def f(", suffix="    return x")
    sent = filling.engine.requests[0]
    assert sent["prompt"] == "<|fim_prefix|>def f(<|fim_suffix|>    return x<|fim_middle|>"
    assert "suffix" not in sent


def test_without_a_middle_token_the_suffix_comes_first() -> None:
    assert fim.prompt(("[PREFIX]", "[SUFFIX]", ""), "a", "b") == "[SUFFIX]b[PREFIX]a"


def test_both_sides_pass_the_input_rules(filling: Running) -> None:
    client(filling).completions.create(model="stdlib", prompt=CARD, suffix=f"b {CARD}")
    assert CARD not in filling.engine.requests[0]["prompt"]


@pytest.mark.parametrize("side", ["prompt", "suffix"])
def test_the_caller_cannot_spell_the_tokens(filling: Running, side: str) -> None:
    reply = post(filling, {"model": "stdlib", "prompt": "a", "suffix": "b", side: "x <|fim_middle|> y"}, path=PATH)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "control_token")
    assert filling.engine.requests == []


def test_several_prompts_have_no_middle(filling: Running) -> None:
    reply = post(filling, {"model": "stdlib", "prompt": ["a", "b"], "suffix": "c"}, path=PATH)
    assert reply.json()["error"]["param"] == "prompt"


def test_a_model_without_the_tokens_says_so(run: Running) -> None:
    reply = post(run, {"model": "stdlib", "prompt": "a", "suffix": "b"}, path=PATH)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_fill_in_the_middle")
