"""What was measured is kept whole, under keys that hold the model's identity."""

import pytest

from evals.cache import AnswerCache, RowCache
from evals.samples import Row

ROWS = [Row("a", "k", 0, 1.0, 1.0, "c"), Row("b", "k", 0, 0.0, 1.0, "c")]


def test_rows_come_back(tmp_path):
    cache = RowCache(tmp_path / "rows")
    assert cache.get("key") is None
    cache.put("key", ROWS)
    assert cache.get("key") == ROWS
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["key.parquet"]


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_damaged_file_is_measured_again(tmp_path, size):
    cache = RowCache(tmp_path)
    cache.put("key", ROWS)
    file = tmp_path / "key.parquet"
    file.write_bytes(file.read_bytes()[:size])
    assert cache.get("key") is None
    cache.put("key", ROWS)
    assert cache.get("key") == ROWS


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
