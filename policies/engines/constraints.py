"""Decode-time constraints: JSON schema, regex, choice, grammar and forbidden words as llguidance token masks."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policies.engines.wire import ChatBody, RequestError, StructuredOutputs, TextBody

if TYPE_CHECKING:
    from policies.engines.decoding import Sequence as Decoding

MOST_CACHED = 256


def grammar_of(body: ChatBody | TextBody) -> str | None:
    """Return the llguidance grammar a request asks for, or None. RequestError when it asks for two, or for nonsense."""
    structured, response_format = body.structured_outputs, body.response_format
    wanted = (response_format or {}).get("type", "text")
    if wanted == "text":
        return None if structured is None else _structured(structured)
    if structured is not None:
        raise RequestError("`structured_outputs` and `response_format` exclude each other", param="response_format")
    if wanted == "json_object":
        return json_grammar({"type": "object"}, compact=True)
    if wanted == "json_schema":
        declared = (response_format or {}).get("json_schema")
        schema = declared.get("schema") if isinstance(declared, dict) else None
        if not isinstance(schema, dict):
            raise RequestError("`response_format.json_schema.schema` must be an object", param="response_format")
        return json_grammar(schema, compact=True)
    raise RequestError(f"unknown response format `{wanted}`", param="response_format.type")


def _structured(asked: StructuredOutputs) -> str:
    from llguidance import LLMatcher

    given = [name for name in ("json", "regex", "choice", "grammar", "json_object") if getattr(asked, name)]
    if len(given) != 1:
        raise RequestError("set exactly one of json, regex, choice, grammar, json_object", param="structured_outputs")
    if asked.regex:
        return str(LLMatcher.grammar_from_regex(asked.regex))
    if asked.choice:
        return choice_grammar(asked.choice)
    if asked.grammar:
        return str(LLMatcher.grammar_from_lark(asked.grammar))
    schema = asked.json if isinstance(asked.json, str | dict) else {"type": "object"}
    return json_grammar(schema, compact=asked.disable_any_whitespace)


def json_grammar(schema: str | dict[str, Any], *, compact: bool = True) -> str:
    """Return the grammar of a JSON schema; RequestError when it is none."""
    from llguidance import LLMatcher

    try:
        # Compact JSON: a weak model would otherwise spend its whole budget on legal white space.
        return str(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": not compact}))
    except ValueError as error:
        raise RequestError(f"not a JSON schema: {error}", param="structured_outputs.json") from None


def choice_grammar(choices: Sequence[str]) -> str:
    """Return the grammar of "exactly one of these texts"."""
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_regex("|".join(f"(?:{_escaped(text)})" for text in choices)))


def forbidden_grammar(words: Sequence[str]) -> str:
    """Return the grammar of every text that holds none of `words`, however it is cut into tokens."""
    from llguidance import LLMatcher

    pattern = "|".join(_escaped(word).replace("/", "\\/") for word in words)
    return str(LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: /(?s:.*)/ & ~/(?s:.*)({pattern})(?s:.*)/"))


def _escaped(text: str) -> str:
    # Rust's regex syntax: escape only what is special there, and write control characters as code points.
    escaped = re.sub(r"[\\.+*?()|\[\]{}^$#&\-~]", lambda hit: "\\" + hit.group(), text)
    return "".join(c if c.isprintable() else f"\\x{{{ord(c):x}}}" for c in escaped)


class Constraints:
    """Compiles grammars for one tokenizer and computes token masks. Compilation is thread safe and cached."""

    def __init__(self, tokenizer_json: str, vocab_size: int, eos: Sequence[int]) -> None:
        from llguidance import LLExecutor, LLTokenizer

        self.vocab_size = vocab_size
        self.words = (vocab_size + 31) // 32
        self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=list(eos))
        self._executor = LLExecutor()
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: str) -> Any:
        """Return a fresh matcher of a grammar; RequestError with llguidance's reason when it does not compile."""
        from llguidance import LLMatcher

        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
                return known.deep_copy()
        fresh = LLMatcher(self._tokenizer, grammar, log_level=0)
        if fresh.is_error():
            raise RequestError(f"the constraint does not compile: {fresh.get_error()}", param="structured_outputs")
        with self._lock:
            self._compiled[grammar] = fresh
            while len(self._compiled) > MOST_CACHED:
                self._compiled.popitem(last=False)
        return fresh.deep_copy()

    def allowed(self, sequences: Sequence[Decoding]) -> Any:
        """Return a boolean numpy array [sequences, vocab_size]: what each sequence's matchers allow next."""
        import numpy

        jobs = [(matcher, row) for row, one in enumerate(sequences) for matcher in one.matchers]
        masks: Any = numpy.zeros((len(jobs), self.words), dtype=numpy.int32)
        numbered = [(matcher, number) for number, (matcher, _) in enumerate(jobs)]
        self._executor.unsafe_compute_mask_ptr(numbered, masks.ctypes.data, self.words * 4, len(jobs))
        joined: Any = numpy.full((len(sequences), self.words), -1, dtype=numpy.int32)
        for number, (matcher, row) in enumerate(jobs):
            if matcher.is_error():
                masks[number] = 0
            joined[row] &= masks[number]
        bits = numpy.unpackbits(joined.view(numpy.uint8), axis=1, bitorder="little")
        return bits[:, : self.vocab_size].astype(bool)
