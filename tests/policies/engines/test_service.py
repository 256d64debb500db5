"""The built-in engine as its callers meet it: a real process, real HTTP over its socket."""

from __future__ import annotations

import concurrent.futures
import json
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

MESSAGES = [{"role": "user", "content": "add an argument"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["x", "y"]}, "on": {"type": "boolean"}},
    "required": ["name", "on"],
    "additionalProperties": False,
}


def _chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "tiny", "messages": MESSAGES, **fields})


def _text(client: httpx.Client, *, timeout: float = 60, **fields: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"model": "tiny", **fields}, timeout=timeout)


def _events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    # Without a character whose last bytes did not come any more.
    return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd"))


def _content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """The same folder under `transformers.generate`."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def test_models_and_health(client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    listed = client.get("/v1/models").json()["data"]
    assert [(model["id"], model["max_model_len"]) for model in listed] == [("tiny", 256)]


def test_socket_is_for_this_user_only(engine: Any) -> None:
    assert stat.S_IMODE(engine.uds.stat().st_mode) == 0o600


def test_chat_equals_generate_on_the_templated_prompt(client: httpx.Client, reference: Any, tokenizer: Any) -> None:
    answer = _chat(client, temperature=0, max_tokens=12, ignore_eos=True).json()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = reference.generate(**prompt, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
    size = prompt["input_ids"].shape[1]
    text = _decoded(tokenizer, out[0, size:].tolist())
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["finish_reason"] == "length"
    mean = answer["usage"].pop("mean_logprob")
    assert answer["usage"] == {"prompt_tokens": size, "completion_tokens": 12, "total_tokens": size + 12}
    weights = reference(out).logits[0].float().log_softmax(-1)[size - 1 : -1].gather(1, out[0, size:, None])
    assert mean == pytest.approx(float(weights.detach().mean()), abs=1e-3)
    assert answer["object"] == "chat.completion"


def test_thirty_concurrent_requests_equal_generate_one_by_one(
    client: httpx.Client, reference: Any, tokenizer: Any
) -> None:
    prompts = [[(7 * number + place) % 500 + 5 for place in range(1 + number)] for number in range(30)]
    limits = [3 + number % 9 for number in range(30)]

    def ask(number: int) -> str:
        fields = {"prompt": prompts[number], "max_tokens": limits[number], "temperature": 0, "ignore_eos": True}
        return str(_text(client, **fields).json()["choices"][0]["text"])

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        texts = list(pool.map(ask, range(30)))
    for prompt, limit, text in zip(prompts, limits, texts, strict=True):
        ids = torch.tensor([prompt])
        out = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert text == _decoded(tokenizer, out[0, len(prompt) :].tolist())


def test_stream_has_openais_shape(client: httpx.Client) -> None:
    fields = {"temperature": 0, "max_tokens": 9, "ignore_eos": True}
    whole = _content(_chat(client, **fields))
    response = _chat(client, stream=True, stream_options={"include_usage": True}, **fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, ending, usage = _events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [list(event["choices"][0]["delta"]) for event in middle] == [["content"]] * len(middle)
    assert "".join(event["choices"][0]["delta"]["content"] for event in middle) == whole
    assert len(middle) > 3
    assert (ending["choices"][0]["delta"], ending["choices"][0]["finish_reason"]) == ({}, "length")
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 9)
    assert {event["object"] for event in (first, *middle, ending, usage)} == {"chat.completion.chunk"}
    assert len({event["id"] for event in (first, *middle, ending, usage)}) == 1
    assert {event["usage"] for event in (first, *middle, ending)} == {None}


def test_stream_without_usage_and_of_text_completions(client: httpx.Client) -> None:
    events = _events(_text(client, prompt="import", stream=True, max_tokens=5, temperature=0, ignore_eos=True))
    assert all("usage" not in event and event["object"] == "text_completion" for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    whole = _text(client, prompt="import", max_tokens=5, temperature=0, ignore_eos=True).json()
    assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]


def test_openais_client_reads_answers_streams_and_errors(engine: Any) -> None:
    http = httpx.Client(transport=httpx.HTTPTransport(uds=str(engine.uds)))
    with openai.OpenAI(base_url="http://engine/v1", api_key="none", http_client=http, max_retries=0) as caller:
        whole = caller.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=6, seed=1, n=2)
        assert len(whole.choices) == 2
        parts = caller.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=6, seed=1, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert text == whole.choices[0].message.content
        with pytest.raises(openai.NotFoundError):
            caller.chat.completions.create(model="other", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError) as caught:
            caller.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=5000)
        assert caught.value.code == "context_length_exceeded"


def test_seeds_repeat_and_choices_differ(client: httpx.Client) -> None:
    first, second = (_chat(client, seed=3, max_tokens=12, n=3).json()["choices"] for _ in range(2))
    assert first == second
    assert len({choice["message"]["content"] for choice in first}) == 3
    assert [choice["index"] for choice in first] == [0, 1, 2]
    other = _chat(client, seed=4, max_tokens=12).json()["choices"][0]["message"]["content"]
    assert other != first[0]["message"]["content"]


def test_several_prompts_are_several_choices(client: httpx.Client) -> None:
    fields = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    both = _text(client, prompt=["import", "def f"], **fields).json()
    single = [_text(client, prompt=prompt, **fields).json() for prompt in ("import", "def f")]
    assert [choice["text"] for choice in both["choices"]] == [one["choices"][0]["text"] for one in single]
    assert both["usage"]["total_tokens"] == sum(one["usage"]["total_tokens"] for one in single)


def test_stop_strings_end_the_text_and_stay_out(client: httpx.Client) -> None:
    fields = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    whole = _content(_chat(client, **fields))
    stop = whole[10:14]
    at = whole.find(stop)
    answer = _chat(client, stop=[stop, "never there"], **fields).json()
    assert answer["choices"][0]["message"]["content"] == whole[:at]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 40
    streamed = _events(_chat(client, stop=stop, stream=True, **fields))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in streamed) == whole[:at]
    late = _chat(client, stop=stop, min_tokens=40, **fields).json()
    assert late["usage"]["completion_tokens"] == 40


def test_logit_bias_and_bad_words_steer(client: httpx.Client, tokenizer: Any) -> None:
    token = tokenizer.backend_tokenizer.encode("z").ids[0]
    assert _content(_chat(client, logit_bias={str(token): 100}, max_tokens=4)) == "zzzz"
    assert _content(_chat(client, allowed_token_ids=[token], max_tokens=3)) == "zzz"
    whole = _content(_chat(client, temperature=0, max_tokens=20, ignore_eos=True))
    bad = whole[3:5]
    changed = _content(_chat(client, temperature=0, max_tokens=20, ignore_eos=True, bad_words=[bad]))
    assert bad in whole
    assert bad not in changed
    assert len(changed) > 5


def test_repetition_is_penalised(client: httpx.Client, tokenizer: Any) -> None:
    def distinct(**fields: Any) -> int:
        text = _content(_chat(client, temperature=0, max_tokens=40, ignore_eos=True, **fields))
        return len(set(tokenizer.backend_tokenizer.encode(text).ids))

    assert distinct(presence_penalty=2, frequency_penalty=2) > distinct()


def test_each_request_of_a_batch_keeps_its_own_constraint(client: httpx.Client) -> None:
    wanted: list[dict[str, Any]] = [
        {"structured_outputs": {"choice": ["ja/nein", 'sagt "vielleicht"']}},
        {"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}},
        {"structured_outputs": {"json": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"structured_outputs": {"grammar": 'start: "a"+ "b"', }, "max_tokens": 200},
        {"max_tokens": 8, "ignore_eos": True},
    ]  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda fields: _chat(client, **{"max_tokens": 60, **fields}), wanted * 4))
    for number, answer in enumerate(answers):
        content, choice = _content(answer), answer.json()["choices"][0]
        kind = number % len(wanted)
        if kind == 0:
            assert content in {"ja/nein", 'sagt "vielleicht"'}
        elif kind == 1:
            assert (len(content), content[3]) == (6, "-")
        elif kind in {2, 3}:
            assert set(json.loads(content)) == {"name", "on"}
        elif kind == 4 and choice["finish_reason"] == "stop":
            assert content.strip("a") == "b"
        if kind < 4:
            assert choice["finish_reason"] == "stop"
        if kind == 5:
            assert answer.json()["usage"]["completion_tokens"] == 8


def test_constrained_text_streams_too(client: httpx.Client) -> None:
    events = _events(_chat(client, structured_outputs={"choice": ["the secret is héllo 😀"]}, stream=True))
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(pieces) == "the secret is héllo 😀"
    assert not any("\ufffd" in piece for piece in pieces)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_constraints_that_exclude_each_other_are_an_error_not_a_text(client: httpx.Client) -> None:
    answer = _chat(client, structured_outputs={"choice": ["secret"]}, bad_words=["secret"])
    assert answer.status_code == 500
    assert "constraints" in answer.json()["error"]["message"]
    streamed = _chat(client, structured_outputs={"choice": ["secret"]}, bad_words=["secret"], stream=True)
    assert "[DONE]" not in streamed.text
    assert "error" in streamed.text


@pytest.mark.parametrize(
    ("path", "fields", "status", "code"),
    [
        ("/v1/chat/completions", {"model": "other", "messages": MESSAGES}, 404, "model_not_found"),
        ("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 999}, 400, "context_length_exceeded"),
        ("/v1/completions", {"model": "tiny", "prompt": [5] * 256}, 400, "context_length_exceeded"),
        ("/v1/completions", {"model": "tiny", "prompt": [9999]}, 400, None),
        ("/v1/completions", {"model": "tiny", "prompt": []}, 400, None),
        ("/v1/completions", {"model": "tiny", "prompt": [[]]}, 400, None),
        ("/v1/completions", {"model": "tiny", "prompt": [5, "x"]}, 400, None),
        ("/v1/completions", {"model": "tiny", "prompt": "x", "structured_outputs": {"regex": "["}}, 400, None),
        ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "surprise": 1}, 400, None),
        ("/v1/embeddings", {"model": "tiny", "input": "x"}, 404, "not_found"),
    ],
)  # fmt: skip
def test_refusals_have_openais_error_shape(
    client: httpx.Client, path: str, fields: dict[str, Any], status: int, code: str | None
) -> None:
    answer = client.post(path, json=fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["message"]


def test_wrong_method_and_broken_body(client: httpx.Client) -> None:
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400


def test_a_client_that_leaves_ends_its_texts(client: httpx.Client, engine: Any) -> None:
    before = client.get("/health").json()["generated_tokens"]
    body = {"prompt": [5], "max_tokens": 250, "ignore_eos": True, "n": 8}
    transport = httpx.HTTPTransport(uds=str(engine.uds))
    with (
        httpx.Client(transport=transport, base_url="http://engine") as leaver,
        leaver.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True, **body}) as stream,
    ):
        next(stream.iter_bytes())
    with pytest.raises(httpx.ReadTimeout):
        _text(client, timeout=0.05, **body)
    deadline = time.monotonic() + 60
    while client.get("/health").json()["sequences"] and time.monotonic() < deadline:
        time.sleep(0.02)
    generated = client.get("/health").json()["generated_tokens"] - before
    assert 0 < generated < 2 * 8 * 250 * 0.8
