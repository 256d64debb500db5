"""The endpoint's client: every text of an answer counts, a content block is an answer, anything else is an error."""

import asyncio
import time

import pytest

from evals.cache import AnswerCache
from evals.harness.provider import Client, read_answer, texts_of
from registry.errors import EngineFailure
from tests.stubs.openai_server import FakeEndpoint, called, refused, said

ASK = [{"role": "user", "content": "hello"}]


def target(endpoint):
    return {"base_url": endpoint.base_url, "api_key": endpoint.api_key, "headers": endpoint.headers}


def ask(client, settings=None):
    async def once():
        try:
            return await client.chat(ASK, settings or {})
        finally:
            await client.aclose()

    return asyncio.run(once())


def test_an_answer_and_what_was_sent():
    with FakeEndpoint(lambda body, count: said("hi")) as endpoint:
        answer = ask(Client(target(endpoint)), {"max_tokens": 5})
    assert (answer.content, answer.finish_reason, answer.blocked) == ("hi", "stop", False)
    assert answer.usage == {"prompt_tokens": 3, "completion_tokens": 2}
    assert endpoint.asked == [{"model": "candidate", "messages": ASK, "max_tokens": 5}]
    assert endpoint.seen_headers[0]["Authorization"] == "Bearer hk_test"
    assert endpoint.seen_headers[0]["X-Permit"] == "sha256:permit"


def test_one_client_serves_several_event_loops():
    with FakeEndpoint(lambda body, count: said(str(count))) as endpoint:
        client = Client(target(endpoint))
        assert [ask(client).content for _ in range(3)] == ["1", "2", "3"]


def test_every_channel_is_text_and_names_are_not():
    status, data = said(
        "a", reasoning="b", tool_calls=[{"id": "call", "type": "function", "function": {"name": "f", "arguments": "c"}}]
    )
    data["choices"][0]["logprobs"] = {"content": [{"token": "d"}]}
    assert set(read_answer(status, data).texts) == {"a", "b", "f", "c", "d"}
    assert list(texts_of({"id": "x", "model": "m"})) == []


def test_a_content_block_is_an_answer_without_content():
    answer = read_answer(*refused(400, "content_filter"))
    assert (answer.content, answer.blocked, answer.rules) == ("", True, ("some-rule",))
    assert "refused: content_filter" in answer.texts


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_key"), (403, "forbidden"), (400, "forbidden_field"), (404, "not_found"), (500, "internal_error"),
     (403, "content_filter")],
)  # fmt: skip
def test_any_other_refusal_is_an_error_never_a_safe_answer(status, code):
    with (
        FakeEndpoint(lambda body, count: refused(status, code)) as endpoint,
        pytest.raises(EngineFailure, match=str(status)),
    ):
        ask(Client(target(endpoint)))


@pytest.mark.parametrize("data", [{}, {"choices": []}, {"choices": None}])
def test_an_empty_answer_is_an_error(data):
    with pytest.raises(EngineFailure):
        read_answer(200, data)


def test_no_json_is_an_error():
    with FakeEndpoint(lambda body, count: (200, b"<html>")) as endpoint, pytest.raises(EngineFailure, match="no JSON"):
        ask(Client(target(endpoint)))


def test_nobody_listening_is_an_error():
    endpoint = FakeEndpoint(lambda body, count: said("hi"))
    endpoint.close()
    with pytest.raises(EngineFailure, match="does not answer"):
        ask(Client(target(endpoint)))


def test_a_busy_endpoint_is_asked_again():
    with FakeEndpoint(lambda body, count: refused(503, "engine_unavailable") if count == 1 else said("hi")) as endpoint:
        assert ask(Client(target(endpoint))).content == "hi"


def test_answers_are_asked_for_once_and_again_for_each_repetition(tmp_path):
    with FakeEndpoint(lambda body, count: said(str(count))) as endpoint:
        first = Client(target(endpoint), AnswerCache(tmp_path / "a", {"candidate": "c"}))
        assert [ask(first).content, ask(first).content] == ["1", "2"]
        again = Client(target(endpoint), AnswerCache(tmp_path / "a", {"candidate": "c"}))
        assert [ask(again).content, ask(again).content, ask(again).content] == ["1", "2", "3"]
        other = Client(target(endpoint), AnswerCache(tmp_path / "a", {"candidate": "d"}))
        assert ask(other).content == "4"


def test_a_kept_refusal_stays_an_error(tmp_path):
    with FakeEndpoint(lambda body, count: refused(403, "forbidden")) as endpoint:
        for _ in range(2):
            with pytest.raises(EngineFailure):
                ask(Client(target(endpoint), AnswerCache(tmp_path / "a", {})))
    assert len(endpoint.asked) == 2


def test_tool_calls_reasoning_and_cost_are_read():
    status, data = called(("look", '{"key": 1}'))
    data["choices"][0]["message"]["reasoning_content"] = "let me see"
    answer = read_answer(status, data, 12.5)
    assert answer.tool_calls[0]["function"] == {"name": "look", "arguments": '{"key": 1}'}
    assert (answer.content, answer.reasoning, answer.finish_reason) == ("", "let me see", "tool_calls")
    assert (answer.tokens, answer.latency_ms) == (5, 12.5)


@pytest.mark.parametrize(
    "error",
    [{"code": "context_length_exceeded", "message": "no"}, {"message": "This model's maximum context length is 128"}],
)
def test_a_prompt_that_does_not_fit_is_the_models_own_limit(error):
    assert read_answer(400, {"error": error}).finish_reason == "model_length"
    with pytest.raises(EngineFailure):
        read_answer(500, {"error": error})


def test_a_named_model_is_asked_for_without_looking():
    with FakeEndpoint(lambda body, count: said("hi")) as endpoint:
        ask(Client({**target(endpoint), "model": "large"}))
    assert endpoint.asked[0]["model"] == "large"


def test_a_lone_surrogate_is_sent_as_json():
    with FakeEndpoint(lambda body, count: said("hi")) as endpoint:
        assert ask(Client(target(endpoint)), {"stop": ["\ud800"]}).content == "hi"
    assert endpoint.asked[0]["stop"] == ["\ud800"]


def test_what_was_spent_is_told_for_new_answers_alone(tmp_path):
    spent = []
    with FakeEndpoint(lambda body, count: said("hi")) as endpoint:
        for _ in range(2):
            client = Client(target(endpoint), AnswerCache(tmp_path / "a", {}))
            client.spent = spent.append
            ask(client)
    assert spent == [5]


def test_a_scope_keeps_its_own_answers_in_any_order(tmp_path):
    async def both(client, first, second):
        try:
            return [(await client.chat(ASK, {}, scope=scope)).content for scope in (first, second)]
        finally:
            await client.aclose()

    with FakeEndpoint(lambda body, count: said(str(count))) as endpoint:
        made = asyncio.run(both(Client(target(endpoint), AnswerCache(tmp_path / "a", {})), "x/1", "x/2"))
        again = asyncio.run(both(Client(target(endpoint), AnswerCache(tmp_path / "a", {})), "x/2", "x/1"))
    assert (made, again) == (["1", "2"], ["2", "1"])


def test_patience_ends_after_failures_in_a_row_and_the_endpoint_is_left_alone():
    script = ["down", "up", "down", "down", "up"]

    def answers(body, count):
        return said("hi") if script[count - 1] == "up" else refused(500, "internal_error")

    heard = []
    with FakeEndpoint(answers) as endpoint:
        client = Client(target(endpoint), patience=2)
        for _ in range(6):
            try:
                heard.append(ask(client).content)
            except EngineFailure:
                heard.append("")
    assert heard == ["", "hi", "", "", "", ""]
    assert len(endpoint.asked) == 4
    assert client.failure is not None


def test_an_answer_that_takes_too_long_is_an_error():
    def slow(body, count):
        time.sleep(0.6)
        return said("late")

    with FakeEndpoint(slow) as endpoint, pytest.raises(EngineFailure, match="ReadTimeout"):
        ask(Client(target(endpoint), timeout=0.1))
