"""Two replays compared: exact where the engine repeats itself, a permutation e-value where it does not."""

import itertools
import math

import numpy as np
import pytest

from evals.drift.asking import Asked
from evals.drift.canaries import Replay
from evals.drift.replays import DISTANCES, _permutation_e, compare

RNG = np.random.default_rng
WORDS = ["the", "answer", "is", "that", "you", "may", "find", "more", "of", "it", "in", "file", "on", "left", "right"]


def replay(answers):
    return Replay("prod", "c", "s", {name: [Asked(text, "stop") for text in texts] for name, texts in answers.items()})


def spoken(rng, count, canaries=8, words=WORDS, length=12):
    """Answers of an engine that samples: `count` texts for each canary."""
    return replay({
        f"c{canary}": [" ".join(rng.choice(words, length)) for _ in range(count)] for canary in range(canaries)
    })  # fmt: skip


def test_an_engine_that_repeats_itself_and_says_the_same_is_quiet():
    same = {f"c{n}": [f"answer {n}"] * 3 for n in range(5)}
    found = compare(replay(same), replay(same), 0.05)
    assert (found["verdict"], found["changed"], found["repeatable"]) == ("quiet", 0.0, True)
    assert len(found["signals"]) == len(DISTANCES)


def test_one_other_answer_of_an_engine_that_repeats_itself_is_a_change():
    same = {f"c{n}": [f"answer {n}"] * 3 for n in range(5)}
    found = compare(replay(same), replay({**same, "c3": ["another"] * 3}), 0.05)
    assert (found["verdict"], found["changed"]) == ("drift", 0.2)
    text = found["signals"][0]
    assert (text["verdict"], text["reference"], text["current"]) == ("drift", 0.0, 0.2)
    assert "repeats itself exactly" in text["false_alarm"]


def test_a_refused_canary_is_another_answer():
    same = {f"c{n}": [f"answer {n}"] * 3 for n in range(5)}
    current = replay(same)
    current.answers["c0"][:] = [Asked("", "content_filter", refused="rule")] * 3
    found = {signal["name"]: signal for signal in compare(replay(same), current, 0.05)["signals"]}
    assert (found["canary:refusal"]["reference"], found["canary:refusal"]["current"]) == (0.0, 0.2)
    assert found["canary:text"]["verdict"] == "drift"


def test_one_stray_answer_of_an_engine_that_does_not_repeat_itself_is_quiet():
    first = {f"c{n}": [f"answer {n}"] * 3 for n in range(5)}
    second = {**first, "c3": ["answer 3", "answer 3", "answer, 3"]}
    found = compare(replay(first), replay(second), 0.05)
    assert (found["verdict"], found["repeatable"]) == ("quiet", False)


def test_another_model_is_seen_through_sampling():
    rng = RNG(0)
    found = compare(spoken(rng, 3), spoken(rng, 3, words=WORDS, length=30), 0.05)
    assert found["verdict"] == "drift"
    assert "canary:length" in {signal["name"] for signal in found["signals"] if signal["verdict"] == "drift"}


def test_the_same_sampling_model_is_hardly_ever_called_changed():
    rng, alpha, runs = RNG(1), 0.05, 60
    alarms = sum(compare(spoken(rng, 3), spoken(rng, 3), alpha)["verdict"] == "drift" for _ in range(runs))
    assert alarms <= runs * alpha + 2 * math.sqrt(runs * alpha * (1 - alpha))


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]])
def test_the_expected_e_value_over_all_divisions_is_one(values):
    total, count = 0.0, 0
    for chosen in itertools.combinations(range(6), 3):
        order = [*chosen, *(place for place in range(6) if place not in chosen)]
        matrix = np.asarray([[abs(values[i] - values[j]) for j in order] for i in order])
        total, count = total + _permutation_e([matrix], 3), count + 1
    assert total / count == pytest.approx(1.0)
