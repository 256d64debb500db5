"""Contamination: copies of a sample in training data are found, whatever hides them; a language's idioms are not."""

import dataclasses
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import contamination, overlap
from evals.contamination import TrainingData, screen, screen_candidate
from evals.evaluate import open_suite
from evals.overlap import Index
from registry.records import Candidate, ModelVersion, Run
from tests.evals.conftest import code

SUITE = """\
suite: screened
version: 1
canary: screened-canary-0123456789
kpis:
  - id: answers
    harness: lm-eval
    task: exact_match
    data: DATA
    samples: 12
    direction: higher
    rule: {type: floor, value: 0.5}
    control: null_model
"""
WORDS = [f"{first}{last}" for first in ("ba", "de", "ki", "lo", "mu") for last in ("ran", "ter", "sin", "vol", "pex")]


def sentence(seed, length=40):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(length))


def found_in(samples, *texts):
    index = Index(samples)
    index.feed(texts, [f"text {number}" for number in range(len(texts))])
    return index.hits()


@pytest.fixture
def suite(ws, tmp_path):
    """A registered suite of twelve questions, and its instruments."""
    rows = [{"input": sentence(number), "target": sentence(100 + number, 3)} for number in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("DATA", "data.jsonl"))
    return open_suite(ws, path, "operator")


@pytest.fixture
def hidden(suite):
    """The text of one sample, in another spelling, in the middle of other words."""
    (instrument,) = suite[1]
    asked = contamination.sample_text(instrument.samples[0])
    return instrument.samples[0].id, f"{sentence(500)}.\n{asked.upper().replace(' ', ' -- ')}; {sentence(501)}"


def test_a_copy_is_found_whatever_stands_around_it_and_however_it_is_spelled(ws, add_dataset, suite, hidden):
    name, text = hidden
    data = add_dataset("plain", {"train": [(code(1), "a.py"), (text, "leak.txt"), (code(2), "b.py")]})
    seen = screen(ws, [data], suite[1])
    assert list(seen.contaminated["answers"]) == [name]
    hit = seen.contaminated["answers"][name]
    assert (hit.kind, hit.share, hit.place) == ("13-gram", 1.0, "plain:1#train leak.txt")
    assert len(hit.example.split()) == 13
    assert hit.example in contamination.sample_text(suite[1][0].samples[0])
    assert seen.counts() == {"answers": 1}
    assert not seen.clean
    assert seen.render_lines()[:2] == [
        "3 rows of plain:1#train", "answers                   1 of 12 samples contaminated, 0 below the rule",
    ]  # fmt: skip


def test_other_texts_and_holdouts_of_the_dataset_are_clean(ws, add_dataset, suite, hidden):
    data = add_dataset("clean", {"train": [(code(1), "a")], "train_holdout": [(hidden[1], "b")]})
    assert screen(ws, [data], suite[1]).clean
    trained_on_it = screen(ws, [TrainingData(data, ("train_holdout",))], suite[1])
    assert trained_on_it.counts() == {"answers": 1}


def test_a_canary_in_a_row_contaminates_every_sample(ws, add_dataset, suite):
    data = add_dataset("marked", {"train": [(code(1), "a"), (f"x {suite[0].body['canary']} y", "b")]})
    assert screen(ws, [data], suite[1]).clean
    seen = screen(ws, [data], suite[1], canaries=[suite[0].body["canary"]])
    assert seen.counts() == {"answers": 12}
    assert {hit.kind for hit in seen.contaminated["answers"].values()} == {"canary"}
    assert {hit.place for hit in seen.contaminated["answers"].values()} == {"marked:1#train b"}


def test_the_same_question_is_answered_from_the_store(ws, add_dataset, suite, hidden, monkeypatch):
    data = add_dataset("kept", {"train": [(hidden[1], "a")]})
    first = screen(ws, [data], suite[1])
    monkeypatch.setattr(contamination, "_stream", None)
    assert screen(ws, [data], suite[1]) == first
    for file in ws.work("evals", "screens").iterdir():
        file.write_text("[1]")
    with pytest.raises(TypeError):
        screen(ws, [data], suite[1])
    monkeypatch.undo()
    assert screen(ws, [data], suite[1]) == first


def test_the_words_of_a_sealed_sample_are_not_kept(ws, add_dataset, suite, hidden):
    data = add_dataset("secret", {"train": [(hidden[1], "a")]})
    sealed = dataclasses.replace(suite[1][0], sealed=True)
    seen = screen(ws, [data], [sealed])
    assert [hit.example for hit in seen.contaminated["answers"].values()] == [""]
    for file in ws.work("evals", "screens").iterdir():
        assert sentence(0).split()[0] not in file.read_text()


def test_all_that_a_candidate_descends_from_is_searched(ws, add_dataset, suite, hidden):
    old = add_dataset("old", {"general_train": [(hidden[1], "leak")], "unused_train": [(code(3), "c")]})
    new = add_dataset("new", {"train": [(code(1), "a")]})
    base = _version(ws, "base", old, {"data": {"splits": {"general_train": 1.0}}})
    tuned = _version(ws, "tuned", new, {"data": {"splits": {"train": 1.0}}}, base)
    candidate = _candidate(ws, tuned)
    parts = {part.dataset.name: part.splits for part in contamination.datasets_of(ws, candidate)}
    assert parts == {"old": ("general_train",), "new": ("train",)}
    seen = screen_candidate(ws, candidate, *suite)
    assert seen.counts() == {"answers": 1}
    assert seen.notes == ()
    foreign = ws.register(ModelVersion("got", "m2", None, None, [], "x", 1, {}), actor="operator", name="got")
    assert screen_candidate(ws, _candidate(ws, foreign), *suite).notes == (
        "what `got:1` was trained on is not recorded: it came from elsewhere",
    )


def test_rows_that_are_gone_are_said_and_not_passed_over(ws, add_dataset, suite):
    data = add_dataset("gone", {"train": [(code(1), "a")]})
    entry = ws.artifacts.manifest(data.body["manifest"]).entries[0]
    ws.artifacts.path(entry.blake3).unlink()
    (note,) = screen(ws, [data], suite[1]).notes
    assert note.startswith("gone:1#train: ")


def _version(ws, name, dataset, recipe, base=None):
    origin = [("base", base.id)] if base else []
    run = Run("pretrain", f"sha256:{name}", recipe, [dataset.id], base.id if base else None, "x", 1, 1, {}, {})
    made = ws.register(run, actor="operator", name=name, parents=[("dataset", dataset.id), *origin])
    record = ModelVersion(name, f"m-{name}", made.id, base.id if base else None, [dataset.id], "x", 1, {})
    return ws.register(record, actor="operator", name=name, parents=[("run", made.id), *origin])


def _candidate(ws, version):
    record = Candidate(version.id, "w", "t", "", "", {}, "transformers", "5", "none", "b")
    return ws.register(record, actor="operator", name=version.name, parents=[("version", version.id)])


# ---- the rule -------------------------------------------------------------------------------------------------------


def test_half_the_words_are_the_limit():
    sample = sentence(7, 60)
    words = sample.split()
    for kept, counts in ((31, True), (29, False)):
        counted, below = found_in({"s": sample}, " ".join(words[:kept]) + " zzz " + sentence(8, 10))
        assert ("s" in counted, "s" in below) == (counts, not counts)


def test_an_edited_copy_is_a_near_duplicate():
    sample = sentence(9, 120).split()
    edited = [word if number % 10 else "changed" for number, word in enumerate(sample)]
    counted, below = found_in({"s": " ".join(sample)}, f"{sentence(10, 300)} {' '.join(edited)} {sentence(11, 300)}")
    assert counted["s"].kind == "near-duplicate"
    assert 0.5 <= counted["s"].share < 0.7
    assert not below


def test_runs_of_five_words_scattered_over_a_long_text_are_no_copy():
    sample = sentence(12, 100).split()
    scattered = [" ".join(sample[at : at + 6]) + " " + sentence(2000 + at, 60) for at in range(94)]
    counted, _ = found_in({"s": " ".join(sample)}, " ".join(scattered))
    assert counted == {}


@pytest.mark.parametrize(("length", "counts"), [(12, True), (8, True), (7, False), (3, False)])
def test_a_short_sample_is_found_whole_and_counts_from_eight_words_on(length, counts):
    sample = sentence(13, length)
    counted, below = found_in({"s": sample}, f"{sentence(14)} {sample} {sentence(15)}")
    assert (list(counted), list(below)) == ((["s"], []) if counts else ([], ["s"]))
    assert {**counted, **below}["s"].kind == "whole"
    assert found_in({"s": sample}, sample.rsplit(" ", 1)[0] + " other")[0] == {}


def test_a_task_s_own_wording_is_no_copy():
    """All samples share a long instruction; a training row that holds it alone contaminates none of them."""
    wording = sentence(16, 40)
    samples = {str(number): f"{wording} {sentence(1000 + number, 30)}" for number in range(60)}
    assert found_in(samples, f"{wording} and nothing more") == ({}, {})
    counted, _ = found_in(samples, samples["7"])
    assert list(counted) == ["7"]


def test_runs_never_cross_from_one_text_into_the_next():
    words = sentence(17, 14).split()
    index = Index({"s": " ".join(words)})
    index.feed([" ".join(words[:7]), " ".join(words[7:])], ["a", "b"])
    assert index.hits() == ({}, {})


@given(st.lists(st.text("abc \n.", max_size=80), max_size=6), st.lists(st.text("abc \n.", max_size=80), max_size=6))
def test_the_rule_is_what_counting_by_hand_gives(samples, texts):
    """Coverage by shared runs, computed naively, and batching changes nothing."""
    named = {str(number): text for number, text in enumerate(samples)}
    counted, below = found_in(named, *texts)
    one_by_one = Index(named)
    for number, text in enumerate(texts):
        one_by_one.feed([text], [f"text {number}"])
    assert one_by_one.hits() == (counted, below)
    known = [overlap.WORD.findall(text.lower()) for text in texts]
    for name, text in named.items():
        words = overlap.WORD.findall(text.lower())
        length = min(len(words), overlap.GRAM)
        runs = {tuple(w[at : at + length]) for w in known for at in range(len(w) - length + 1)} if length else set()
        hit = [at for at in range(len(words) - length + 1) if length and tuple(words[at : at + length]) in runs]
        share = len({at + step for at in hit for step in range(length)}) / len(words) if words else 0.0
        by_runs = share >= overlap.COVERED and len(words) >= overlap.SHORTEST
        if by_runs:
            assert counted[name].kind in ("whole", "13-gram")
        else:
            assert name not in counted or counted[name].kind == "near-duplicate"


def test_the_canary_is_looked_for_in_every_file_of_a_suite(suite, tmp_path):
    path = tmp_path / "suite.yaml"
    assert contamination.unmarked("screened-canary-0123456789", path, suite[1]) == ["data.jsonl"]
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write(json.dumps({"input": "x", "target": "y", "canary": "screened-canary-0123456789"}))
    assert contamination.unmarked("screened-canary-0123456789", path, suite[1]) == []
    own = dataclasses.replace(suite[1][0], files={"tasks/a.py": b"# none", "samples/answers.jsonl": b"{}"})
    assert contamination.unmarked("screened-canary-0123456789", path, [own]) == ["tasks/a.py"]
    assert contamination.unmarked("screened-canary-0123456789", path, [dataclasses.replace(own, sealed=True)]) == []
