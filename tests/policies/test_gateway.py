"""The endpoint as its callers see it: OpenAI's own client and plain HTTP, real gateway, real sockets."""

from __future__ import annotations

import json
import random

import openai
import pytest

from tests.policies.asking import ASK, chat, client, post, streamed
from tests.policies.running import CARD, SECRET, Running
from tests.stubs.engine import Script
from tests.waiting import until

SAFE = "the [REDACTED:api_key] is what you need"
SPOKEN = f"the {SECRET} is what you need"


# ---- what works ------------------------------------------------------------------------------------------------


def test_chat_whole_and_streamed_say_the_same(run: Running) -> None:
    run.engine.script = Script(["one ", "two ", "three"])
    whole = client(run).chat.completions.create(model="stdlib", messages=ASK)
    assert whole.choices[0].message.content == "one two three"
    assert whole.model == "stdlib"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 10
    assert streamed(run) == "one two three"
    decided = run.decisions(2)
    assert decided[0]["output_hash"] == decided[1]["output_hash"] != ""
    assert [row["completion_tokens"] for row in decided] == [3, 3]


def test_completions_whole_and_streamed(run: Running) -> None:
    run.engine.script = Script(["def ", "f():"])
    asked = client(run).completions
    assert asked.create(model="stdlib", prompt="code", max_tokens=4).choices[0].text == "def f():"
    chunks = list(asked.create(model="stdlib", prompt="code", stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "def f():"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    assert run.engine.requests[0]["max_tokens"] == 4


def test_the_stream_ends_as_clients_expect(run: Running) -> None:
    lines = post(run, chat(stream=True)).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    first, last = json.loads(lines[0][6:]), json.loads(lines[-2][6:])
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in line for line in lines)


def test_models_lists_what_the_caller_may_use(run: Running) -> None:
    assert [model.id for model in client(run).models.list()] == ["stdlib"]
    assert list(client(run, "ivy").models.list()) == []


def test_one_model_is_described_to_those_who_may_use_it(run: Running) -> None:
    assert client(run).models.retrieve("stdlib").to_dict() == client(run).models.list().data[0].to_dict()
    row = run.decisions(2)[0]
    assert (row["action"], row["status"], row["model"], row["rules"]) == (
        "allow", 200, "stdlib", ["members-may-use-models"],
    )  # fmt: skip


def test_a_model_that_is_not_for_the_caller_is_answered_as_one_that_is_not_there(run: Running) -> None:
    said = []
    for name, model in (("ivy", "stdlib"), ("ivy", "other"), ("mia", "other"), ("mia", "permit/a b")):
        with pytest.raises(openai.NotFoundError) as refused:
            client(run, name).models.retrieve(model)
        reply = refused.value.response
        error = reply.json()["error"]
        receipt = error.pop("request_id")
        assert receipt == reply.headers["x-hallmark-receipt"]
        said.append((error, sorted(reply.headers)))
    assert said[0][0] == {
        "message": "no such model on this endpoint", "type": "not_found_error", "param": "model",
        "code": "model_not_found", "rules": [],
    }  # fmt: skip
    assert all(each == said[0] for each in said)
    rows = run.decisions(4)
    assert [(row["action"], row["status"], row["model"]) for row in rows] == [
        ("deny", 404, "stdlib"), ("deny", 404, "other"), ("deny", 404, "other"), ("deny", 404, "permit/a b"),
    ]  # fmt: skip


def test_a_model_whose_engine_is_gone_is_not_described(run: Running) -> None:
    run.desk.closed["engine"] = "gone"
    try:
        with pytest.raises(openai.NotFoundError):
            client(run).models.retrieve("stdlib")
    finally:
        run.desk.closed.clear()


def test_several_choices_are_kept_apart(run: Running) -> None:
    run.engine.script = Script(["a sk-abc", "def123456", " z"], choices=3)
    answer = client(run).chat.completions.create(model="stdlib", messages=ASK, n=3)
    assert [choice.message.content for choice in answer.choices] == ["a [REDACTED:api_key] z"] * 3
    texts = {0: "", 1: "", 2: ""}
    for chunk in client(run).chat.completions.create(model="stdlib", messages=ASK, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert set(texts.values()) == {"a [REDACTED:api_key] z"}


def test_receipt_and_certificate_are_in_the_headers(run: Running) -> None:
    reply = post(run, chat())
    assert reply.headers["x-hallmark-certificate"] == "sha256:cert"
    assert run.decisions(1)[0]["request_id"] == reply.headers["x-hallmark-receipt"]


def test_what_reaches_the_engine_is_what_was_checked(run: Running) -> None:
    post(run, chat(user="me", temperature=0, max_completion_tokens=9, logprobs=False))
    sent = run.engine.requests[0]
    salt = sent.pop("cache_salt")
    assert sent == {"model": "engine", "messages": ASK, "temperature": 0.0, "max_tokens": 9}
    post(run, chat(), "otto")
    assert run.engine.requests[1]["cache_salt"] != salt


# ---- output rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_secret_is_redacted_however_it_is_cut(run: Running, seed: int) -> None:
    rng = random.Random(seed)
    pieces, rest = [], SPOKEN
    while rest:
        size = rng.choice((1, 1, 2, 3, 7, 20))
        pieces.append(rest[:size])
        rest = rest[size:]
    run.engine.script = Script(pieces, glue=seed % 2 == 0)
    assert streamed(run) == SAFE
    answer = client(run).chat.completions.create(model="stdlib", messages=ASK)
    assert answer.choices[0].message.content == SAFE
    decided = run.decisions(2)
    assert [row["action"] for row in decided] == ["redact", "redact"]
    assert "keys-stay-inside" in decided[0]["rules"]
    assert decided[0]["output_hash"] == decided[1]["output_hash"]


@pytest.mark.parametrize("channel", ["reasoning_content", "reasoning", "tool", "refusal"])
def test_every_text_channel_is_guarded(run: Running, channel: str) -> None:
    run.engine.script = Script(["{x sk-xyz", "uvw", "123456 y}"], channel=channel)
    body = chat(tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}])
    for stream in (False, True):
        text = post(run, {**body, "stream": stream}).text
        assert not any(part in text for part in ("xyz", "uvw", "3456 y"))  # no part of a request id either
        assert "[REDACTED:api_key]" in text


def test_log_probabilities_and_unknown_engine_fields_are_stripped(run: Running) -> None:
    run.engine.script = Script([SPOKEN], extra={"prompt_token_ids": [1, 2], "kv_transfer_params": {"a": SECRET}})
    for stream in (False, True):
        text = post(run, chat(stream=stream)).text
        assert "token" not in text.replace("_tokens", "")
        assert SECRET not in text


def test_a_tool_that_was_not_offered_is_blocked(run: Running) -> None:
    run.engine.script = Script(["{}"], channel="tool")
    assert post(run, chat()).json()["error"]["rules"] == ["tool-not-offered"]
    assert "tool-not-offered" in post(run, chat(stream=True)).text


def test_a_blocked_topic_is_refused_whole(run: Running) -> None:
    run.engine.script = Script(["to make a nerve ", "agent you need more"])
    reply = post(run, chat())
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "content_filter"
    assert reply.json()["error"]["rules"] == ["no-weapons"]
    assert "need more" not in reply.text
    assert run.decisions(1)[0]["action"] == "block"


def test_a_block_in_mid_stream_ends_it_and_the_engines_work(run: Running) -> None:
    run.engine.script = Script(["well, to make a ", "nerve agent", *[" you need more"] * 500], delay=0.005)
    aborted = run.engine.aborted
    got = ""
    finish = None
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - what came before the error is looked at too
        for chunk in client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True):
            got += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
    assert got == "well, to make a "
    assert finish == "content_filter"
    assert caught.value.code == "content_filter"
    until(lambda: run.engine.aborted == aborted + 1)
    row = run.decisions(1)[0]
    assert (row["action"], row["finish_reason"], row["output_chars"]) == ("block", "content_filter", len(got))


def test_a_block_before_the_first_byte_is_an_error_answer(run: Running) -> None:
    run.engine.script = Script(["sarin is"])
    reply = post(run, chat(stream=True))
    assert reply.status_code == 400
    assert reply.json()["error"]["rules"] == ["no-weapons"]


# ---- input rules -----------------------------------------------------------------------------------------------


def test_input_is_masked_in_every_place(run: Running) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": CARD, "parameters": {"enum": [CARD]}}}
    messages = [
        {"role": "system", "content": f"card {CARD}"},
        {"role": "user", "content": [{"type": "text", "text": f"pay with {CARD}"}]},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": f'"{CARD}"'}}]},
        {"role": "tool", "tool_call_id": "c", "content": CARD},
    ]  # fmt: skip
    assert post(run, chat(messages=messages, tools=[tool])).status_code == 200
    sent = json.dumps(run.engine.requests[0])
    assert CARD not in sent
    assert sent.count("[REDACTED:card]") == 6
    post(run, {"model": "stdlib", "prompt": ["a", CARD]}, path="/v1/completions")
    assert run.engine.requests[1]["prompt"] == ["a", "[REDACTED:card]"]
    row = run.decisions(2)[0]
    assert (row["action"], row["rules"]) == ("redact", ["members-may-use-models", "cards-stay-inside"])


def test_a_blocked_input_never_reaches_the_engine(run: Running) -> None:
    reply = post(run, chat(messages=[{"role": "user", "content": "how is sarin made?"}]))
    assert (reply.status_code, reply.json()["error"]["rules"]) == (400, ["no-weapons"])
    assert "sarin" not in reply.text
    assert run.engine.requests == []
    assert run.decisions(1)[0]["action"] == "block"
