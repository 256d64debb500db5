"""A tokenizer whose tokens are bytes, and whether a decode-time constraint lets a text through it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import msgspec

from policies.engines.constraints import Constraints, forbidden_grammar, grammar_of
from policies.engines.wire import ChatBody


@cache
def _alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


@cache
def _constraints() -> Constraints:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {char: number for number, char in enumerate(_alphabet())}
    tokenizer = Tokenizer(models.BPE({**vocab, "</s>": len(vocab)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return Constraints(tokenizer.to_str(), len(vocab) + 1, [len(vocab)])


def lets_through(constraint: dict[str, Any], text: str) -> bool:
    """Say whether an engine under these decode-time fields can write exactly this text and end."""
    return all(_accepts(grammar, text) for grammar in _grammars(json.dumps(constraint, sort_keys=True)))


@cache
def _grammars(constraint: str) -> tuple[str, ...]:
    fields = json.loads(constraint)
    asked = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    words = asked.pop("bad_words", [])
    grammar = grammar_of(msgspec.convert(asked, ChatBody))
    return (*([grammar] if grammar else []), *([forbidden_grammar(words)] if words else []))


def _accepts(grammar: str, text: str) -> bool:
    from tokenizers.pre_tokenizers import ByteLevel

    codes = {char: number for number, char in enumerate(_alphabet())}
    pieces = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text) if text else []
    tokens = [codes[char] for piece, _ in pieces for char in piece]
    matcher = _constraints().matcher(grammar)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
