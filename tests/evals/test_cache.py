"""What was measured is kept whole, under keys that hold the model's identity."""

import pytest

from evals.cache import AnswerCache, RowCache
from evals.samples import Row

ROWS = [Row("a", "k", 0, 1.0, 1.0, "c"), Row("b", "k", 0, 0.0, 1.0, "c")]


BY_SAMPLE = {"a": [ROWS[0]], "b": [ROWS[1]]}


def test_rows_come_back_by_sample(tmp_path):
    cache = RowCache(tmp_path / "rows")
    assert cache.get("key") == {}
    cache.put("key", ROWS)
    cache.put("key", [])
    assert cache.get("key") == BY_SAMPLE
    assert len(list((tmp_path / "rows" / "key").iterdir())) == 1


def test_rows_are_added_and_the_first_of_a_sample_counts(tmp_path):
    cache = RowCache(tmp_path)
    epochs = [Row("c", "k", epoch, 0.5, 1.0, "c") for epoch in (0, 1)]
    cache.put("key", [ROWS[0]])
    cache.put("key", [Row("a", "k", 0, 7.0, 1.0, "c"), *epochs])
    assert cache.get("key") == {"a": [ROWS[0]]}
    assert cache.get("key", epochs=2) == {"c": epochs}
    assert cache.get("other") == {}


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_damaged_part_is_measured_again_and_the_others_stay(tmp_path, size):
    cache = RowCache(tmp_path)
    cache.put("key", [ROWS[0]])
    (part,) = (tmp_path / "key").iterdir()
    cache.put("key", [ROWS[1]])
    part.write_bytes(part.read_bytes()[:size])
    assert cache.get("key") == {"b": [ROWS[1]]}
    cache.put("key", [ROWS[0]])
    assert cache.get("key") == BY_SAMPLE


def test_a_part_that_was_not_finished_does_not_count(tmp_path):
    cache = RowCache(tmp_path)
    cache.put("key", [ROWS[0]])
    (part,) = (tmp_path / "key").iterdir()
    part.rename(part.with_name(f".{part.name}"))
    assert cache.get("key") == {}


def test_what_is_noted_of_rows_is_replaced_and_may_be_torn(tmp_path):
    cache = RowCache(tmp_path)
    assert cache.noted("key") == {}
    cache.note("key", {"permit": "p"})
    cache.note("key", {"permit": "q"})
    assert cache.noted("key") == {"permit": "q"}
    (tmp_path / "key" / "note.json").write_text("[1")
    assert cache.noted("key") == {}
    assert cache.get("key") == {}


def test_another_model_or_instrument_is_another_key():
    first = RowCache.key({"weights": "a"}, "i")
    assert first == RowCache.key({"weights": "a"}, "i")
    assert len({first, RowCache.key({"weights": "b"}, "i"), RowCache.key({"weights": "a"}, "j")}) == 3


def test_answers_survive_and_epochs_differ(tmp_path):
    cache = AnswerCache(tmp_path / "answers", {"candidate": "a"})
    first, second = cache.key({"q": 1}, 0), cache.key({"q": 1}, 1)
    cache.put(first, {"said": "é\n"})
    again = AnswerCache(tmp_path / "answers", {"candidate": "a"})
    assert again.get(first) == {"said": "é\n"}
    assert again.get(second) is None
    assert AnswerCache(tmp_path / "answers", {"candidate": "b"}).key({"q": 1}, 0) != first


def test_a_torn_line_loses_one_answer_and_no_more(tmp_path):
    path = tmp_path / "answers"
    cache = AnswerCache(path, {})
    cache.put("a", 1)
    cache.put("b", 2)
    path.write_bytes(path.read_bytes()[:-5])
    again = AnswerCache(path, {})
    assert (again.get("a"), again.get("b")) == (1, None)
    again.put("c", 3)
    assert AnswerCache(path, {}).get("c") == 3
