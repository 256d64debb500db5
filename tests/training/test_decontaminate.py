from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from training.data.decontaminate import overlapping, suite_texts
from training.data.words import hash_all

WORDS = [f"w{i}" for i in range(40)]


def test_thirteen_words_overlap_and_twelve_do_not():
    held = " ".join(WORDS)
    texts = ["x " + " ".join(WORDS[5:18]) + " y", "x " + " ".join(WORDS[5:17]) + " y", "short"]
    assert overlapping(hash_all(texts), hash_all([held]), 13) == [True, False, False]
    assert overlapping(hash_all(texts), [], 13) == [False, False, False]


@given(
    st.lists(st.sampled_from("abc"), min_size=3, max_size=12), st.lists(st.sampled_from("abc"), min_size=3, max_size=12)
)
def test_agrees_with_a_plain_search(train, held):
    grams = {tuple(held[i : i + 3]) for i in range(len(held) - 2)}
    expected = any(tuple(train[i : i + 3]) in grams for i in range(len(train) - 2))
    assert overlapping(hash_all([" ".join(train)]), hash_all([" ".join(held)]), 3) == [expected]


def test_strings_of_a_suite_are_found_wherever_they_stand(ws, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"x": {"y": ["first string of a suite"]}}) + "\n\n")
    (folder / "b.json").write_text(json.dumps(["second string of a suite", 4]))
    (folder / "c.txt").write_text("third string of a suite")
    (folder / "suite.yaml").write_text("description: not an item of the suite at all")
    pq.write_table(pa.table({"t": ["fourth string of a suite"]}), folder / "d.parquet")
    found = list(suite_texts(ws.artifacts.add_tree(folder), folder))
    assert sorted(text.split()[0] for text in found) == ["first", "fourth", "second", "third"]
