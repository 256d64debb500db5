"""lm-eval over HTTP: completions, log-probabilities where a server gives them, and a clear word where it does not."""

from contextlib import closing

import pytest

from evals.children.endpoint_lm import EndpointLM
from evals.children.lm_eval_model import Question
from registry.errors import EngineFailure, SpecError
from tests.stubs.openai_server import FakeEndpoint, completed, refused, said

GREEDY = {"until": ["\n", "STOP"], "max_gen_toks": 7, "do_sample": False, "temperature": 0.0}


def answers(endpoint, *questions, guarded=False):
    target = {"base_url": endpoint.base_url, "api_key": "k", "headers": endpoint.headers, "guarded": guarded}
    found = {}
    with closing(EndpointLM(target)) as model:
        model.answer(questions, found.__setitem__)
    return [found[place] for place in range(len(questions))]


def generate(text, **settings):
    return Question("generate_until", (text, {**GREEDY, **settings}))


def test_completions_are_asked_for_as_the_task_says_and_cut_at_its_stops():
    with FakeEndpoint(lambda body, count: completed(body)) as endpoint:
        first, second = answers(endpoint, generate("a b c"), generate("d"))
    assert (first.value, first.prompt_tokens, first.completion_tokens) == ("yes", 3, 1)
    assert first.latency_ms > 0
    assert second.value == "yes"
    assert endpoint.asked[0] == {
        "model": "candidate", "prompt": "a b c", "max_tokens": 7, "temperature": 0.0, "stop": ["\n", "STOP"]
    }  # fmt: skip


def test_sampled_completions_have_a_seed_of_their_own_each_time():
    hot = {"until": [], "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    questions = [Question("generate_until", ("a", hot), turn) for turn in range(3)]
    with FakeEndpoint(lambda body, count: completed(body)) as endpoint:
        answers(endpoint, *questions)
    assert sorted(body["seed"] for body in endpoint.asked) == [0, 1, 2]
    assert all(body["temperature"] == 0.7 and body["top_p"] == 0.9 for body in endpoint.asked)


@pytest.mark.parametrize("guarded", [True, False])
def test_chat_is_used_where_the_endpoint_is_guarded_or_has_nothing_else(guarded):
    with FakeEndpoint(lambda body, count: said("hi STOP x") if "messages" in body else refused(404, "no")) as endpoint:
        replies = answers(endpoint, generate("ask"), generate("more"), guarded=guarded)
    assert [reply.value for reply in replies] == ["hi ", "hi "]
    chats = [body["messages"] for body in endpoint.asked if "messages" in body]
    assert sorted(chat[0]["content"] for chat in chats) == ["ask", "more"]
    assert len(endpoint.asked) == 2 + (not guarded)  # that there are no completions was seen once


def test_a_block_of_the_guard_is_an_empty_answer_and_any_other_refusal_an_error():
    with FakeEndpoint(lambda body, count: refused(400, "content_filter")) as endpoint:
        assert answers(endpoint, generate("ask"), guarded=True)[0].value == ""
    with FakeEndpoint(lambda body, count: refused(403, "forbidden")) as endpoint, pytest.raises(EngineFailure):
        answers(endpoint, generate("ask"), guarded=True)


def test_log_likelihoods_of_continuations_and_whether_they_are_greedy():
    with FakeEndpoint(lambda body, count: completed(body)) as endpoint:
        short, long = answers(
            endpoint, Question("loglikelihood", ("the cat", " sat on")), Question("loglikelihood", ("the ", "elephant"))
        )
    assert short.value == [pytest.approx(-0.7), True]
    assert long.value == [pytest.approx(-0.9), False]  # the space belongs to the continuation
    assert endpoint.asked[0]["echo"] is True


def test_a_first_token_without_a_number_is_no_whole_text():
    with FakeEndpoint(lambda body, count: completed(body)) as endpoint, pytest.raises(SpecError, match="first token"):
        answers(endpoint, Question("loglikelihood_rolling", ("the cat sat",)))


@pytest.mark.parametrize(
    "reply",
    [lambda body, count: completed({**body, "echo": False}), lambda body, count: refused(400, "echo is not offered"),
     lambda body, count: refused(404, "not_found")],
)  # fmt: skip
def test_a_server_without_prompt_log_probabilities_says_so_with_a_cure(reply):
    with FakeEndpoint(reply) as endpoint, pytest.raises(SpecError, match="no prompt log-probabilities") as caught:
        answers(endpoint, Question("loglikelihood", ("the cat", " sat")))
    assert "endpoint: weights" in caught.value.hint


def test_the_guarded_endpoint_is_not_asked_for_log_probabilities():
    with FakeEndpoint(lambda body, count: said("x")) as endpoint:
        with pytest.raises(SpecError, match="guarded endpoint gives no log-probabilities"):
            answers(endpoint, Question("loglikelihood", ("a", "b")), guarded=True)
        assert endpoint.asked == []


def test_a_busy_server_is_asked_again_and_a_dead_one_is_an_error():
    with FakeEndpoint(lambda body, count: refused(503, "busy") if count == 1 else completed(body)) as endpoint:
        assert answers(endpoint, generate("a"))[0].value == "yes"
    with pytest.raises(EngineFailure, match="does not answer"):
        answers(endpoint, generate("a"))
