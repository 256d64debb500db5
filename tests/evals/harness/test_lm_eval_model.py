"""The model that lm-eval sees: answers are kept under the model, and only what may vary is asked again."""

from contextlib import closing

import pytest
from lm_eval.api.instance import Instance

from evals.cache import AnswerCache
from evals.children.endpoint_lm import EndpointLM
from evals.children.lm_eval_model import AskedModel, cut_at, new_tokens, stop_texts, temperature
from evals.children.lm_eval_scores import reader
from registry.errors import SpecError
from tests.stubs.openai_server import FakeEndpoint, completed

HOT = {"do_sample": True, "temperature": 0.8, "max_gen_toks": 3}
GREEDY = {"do_sample": False, "temperature": 0.8, "max_gen_toks": 3}


def ask(endpoint, folder, settings, *, epochs=1, repeats=2, model="a"):
    """What one request says, repetition by repetition, and the tokens that were used."""
    spent = []
    target = {"base_url": endpoint.base_url, "api_key": "k", "headers": {}, "guarded": False}
    with closing(EndpointLM(target)) as backend:
        asked = AskedModel(
            backend, AnswerCache(folder / "kept", {"model": model}), tick=lambda _: None, spend=spent.append
        )
        request = Instance("generate_until", {}, ("say", settings), 0, ("task", 0, repeats))
        said = []
        for epoch in range(epochs):
            asked.epoch = epoch
            said.append(asked.generate_until([request] * repeats))
    return said, sum(spent)


def test_a_sampled_answer_is_drawn_anew_for_every_repetition_and_epoch_and_kept(tmp_path):
    with FakeEndpoint(lambda body, count: completed(body, str(body.get("seed")))) as endpoint:
        said, spent = ask(endpoint, tmp_path, HOT, epochs=2)
        assert said == [["0", "1"], ["2", "3"]]
        assert spent == 4 * 2
        assert ask(endpoint, tmp_path, HOT, epochs=2) == (said, 0)
        assert len(endpoint.asked) == 4


def test_a_greedy_answer_is_asked_for_once_for_one_model(tmp_path):
    with FakeEndpoint(lambda body, count: completed(body, str(count))) as endpoint:
        assert ask(endpoint, tmp_path, GREEDY, epochs=2)[0] == [["1", "1"], ["1", "1"]]
        assert ask(endpoint, tmp_path, GREEDY)[0] == [["1", "1"]]
        assert ask(endpoint, tmp_path, GREEDY, model="b")[0] == [["2", "2"]]
        assert ask(endpoint, tmp_path, {**GREEDY, "max_gen_toks": 4})[0] == [["3", "3"]]


@pytest.mark.parametrize(
    ("settings", "heat"),
    [
        ({}, 0.0),
        ({"temperature": 0.0}, 0.0),
        ({"temperature": 0.7}, 0.7),
        ({"temperature": 0.7, "do_sample": False}, 0.0),
        ({"do_sample": True}, 1.0),
    ],
)
def test_greedy_unless_the_task_asks_for_sampling(settings, heat):
    assert temperature(settings) == heat


def test_stops_and_room_are_those_of_the_task():
    assert stop_texts({"until": "\n"}) == ["\n"]
    assert stop_texts({"until": ["a", ""]}) == ["a"]
    assert cut_at("one\ntwo Q three", ["Q", "\n"]) == "one"
    assert (new_tokens({"max_gen_toks": 5}), new_tokens({"max_tokens": 6}), new_tokens({})) == (5, 6, 256)


def test_values_become_numerator_and_weight_and_sums_over_all_samples_are_refused():
    from lm_eval.api import metrics

    assert reader("acc", metrics.mean)(True) == (1.0, 1.0)
    assert reader("bits_per_byte", metrics.bits_per_byte)((-6.931471805599453, 5)) == (pytest.approx(10.0), 5.0)
    assert reader("word_perplexity", metrics.weighted_perplexity)((-3.0, 2)) == (3.0, 2.0)
    assert reader("perplexity", metrics.perplexity)(-1.5) == (1.5, 1.0)
    assert reader("brier_score", metrics.brier_score)((1, [0.25, 0.75])) == (pytest.approx(0.125), 1.0)
    assert reader("own", lambda items: sum(items) / len(items))(0.5) == (0.5, 1.0)
    for whole in (metrics.f1_score, metrics.matthews_corrcoef, metrics.bleu, metrics.median, max):
        with pytest.raises(SpecError, match="over all samples at once"):
            reader("m", whole)
    with pytest.raises(SpecError, match="not a number"):
        reader("acc", metrics.mean)([1, 0])
