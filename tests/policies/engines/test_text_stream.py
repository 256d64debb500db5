"""Incremental text equals the whole text, never shows half a character, never shows a stop string."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from policies.engines.text_stream import TextStream


def _whole(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = ()) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
    starts = [text.find(stop) for stop in stops if stop in text]
    return text[: min(starts)] if starts else text


def _streamed(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    stream, parts = TextStream(tokenizer, stops), []
    for token in ids:
        parts.append(stream.push(token))
        if stream.ended:
            break
    return [*parts, stream.finish()]


@given(st.data())
def test_stream_joins_to_the_decoded_text_for_any_tokens(tokenizer: Any, data: st.DataObject) -> None:
    backend = tokenizer.backend_tokenizer
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    assert "".join(_streamed(backend, ids)) == _whole(backend, ids)


@given(st.data(), st.text(max_size=40))
def test_no_piece_of_valid_text_holds_a_replacement_character(tokenizer: Any, data: st.DataObject, text: str) -> None:
    backend = tokenizer.backend_tokenizer
    text = text.replace("\ufffd", "")
    ids = backend.encode(text).ids
    parts = _streamed(backend, ids)
    assert "".join(parts) == _whole(backend, ids)
    assert not any("\ufffd" in part for part in parts)


@given(st.data())
def test_a_stop_string_and_what_follows_never_leave(tokenizer: Any, data: st.DataObject) -> None:
    backend = tokenizer.backend_tokenizer
    text = data.draw(st.text(alphabet="abé😀 ", max_size=40))
    stops = tuple(data.draw(st.lists(st.text(alphabet="abé😀 ", min_size=1, max_size=4), min_size=1, max_size=3)))
    ids = backend.encode(text).ids
    stream, shown, first = TextStream(backend, stops), "", len(text)
    for token in ids:
        shown += stream.push(token)
        assert not any(stop in shown for stop in stops)
        if stream.ended:
            break
    shown += stream.finish()
    assert stream.ended == any(stop in text for stop in stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    first = min([text.find(stop) for stop in stops if stop in text], default=len(text))
    # The stop met first in reading order ends the text; one that begins earlier but ends later may come second.
    assert len(shown) >= first


def test_stop_strings_pass_while_they_may_not_stop(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    stream = TextStream(backend, ("b",))
    early = "".join(stream.push(token, may_stop=False) for token in backend.encode("abc").ids)
    late = "".join(stream.push(token) for token in backend.encode("dbe").ids) + stream.finish()
    assert (early, late, stream.ended) == ("abc", "d", True)
    assert stream.push(9) == ""


def test_unstreamed_text_comes_at_the_end(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    stream = TextStream(backend, stream=False)
    assert [stream.push(token) for token in backend.encode("héllo").ids] == [""] * len(backend.encode("héllo").ids)
    assert stream.finish() == "héllo"
