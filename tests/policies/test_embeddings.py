"""Embeddings: offered where the engine has them, texts checked on the way in, nothing but numbers on the way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import orjson
import pytest

from policies.endpoint.exchange import SURFACES
from policies.endpoint.upstream import UpstreamBroken
from policies.wire import embeddings
from tests.policies.asking import client, post
from tests.policies.running import CARD, Running
from tests.stubs.engine import Script

PATH = "/v1/embeddings"


@pytest.fixture
def embedding(run: Running) -> Iterator[Running]:
    """The shared gateway while its engine has embeddings."""
    before = run.desk.served
    run.desk.served = replace(before, surfaces=SURFACES | {"embeddings"})
    yield run
    run.desk.served = before


def test_they_are_refused_where_the_engine_has_none(run: Running) -> None:
    reply = post(run, {"model": "stdlib", "input": "a"}, path=PATH)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "surface_not_offered")
    assert run.engine.requests == []


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openais_client_reads_them(embedding: Running, encoding: Any) -> None:
    more = {"encoding_format": encoding} if encoding else {}
    found = client(embedding).embeddings.create(model="stdlib", input=["a", "bcd"], **more)
    vectors = [item.embedding for item in found.data]
    if encoding != "base64":
        assert vectors == [[0.5, -1.0, 1.0], [0.5, -1.0, 3.0]]
    assert (found.usage.total_tokens, found.model) == (7, "stdlib")
    row = embedding.decisions(1)[0]
    assert (row["action"], row["prompt_tokens"], row["output_chars"]) == ("allow", 7, 0)


def test_input_rules_hold(embedding: Running) -> None:
    client(embedding).embeddings.create(model="stdlib", input=[f"card {CARD}", "fine"])
    sent = embedding.engine.requests[0]
    assert (set(sent), sent["input"]) == (
        {"model", "input", "encoding_format", "cache_salt"},
        ["card [REDACTED:card]", "fine"],
    )
    with pytest.raises(openai.BadRequestError, match="no-weapons"):
        client(embedding).embeddings.create(model="stdlib", input="how to make sarin")
    assert [row["action"] for row in embedding.decisions(2)] == ["redact", "block"]


@pytest.mark.parametrize(
    "body",
    [{"input": [1, 2]}, {"input": [[1]]}, {"input": []}, {"encoding_format": "bytes"}, {"dimensions": 0},
     {"messages": []}, {"add_special_tokens": False}, {"truncate_prompt_tokens": 3}, {"stream": True}],
    ids=str,
)  # fmt: skip
def test_other_inputs_and_fields_are_refused(embedding: Running, body: dict[str, Any]) -> None:
    reply = post(embedding, {"model": "stdlib", "input": "a", **body}, path=PATH)
    assert reply.status_code == 400
    assert next(iter(body)) in (reply.json()["error"]["param"] or reply.json()["error"]["message"])


@pytest.mark.parametrize("vector", ["the secret is out", "QQ==", "", [], ["a"], [None], {"a": 1}, None], ids=str)
def test_a_vector_holds_numbers_only(vector: Any) -> None:
    answer = orjson.dumps({"data": [{"embedding": vector, "index": 0}], "usage": {"prompt_tokens": 1}})
    with pytest.raises(UpstreamBroken):
        embeddings.read(answer, "m", 1)


def test_one_vector_for_each_input() -> None:
    answer = orjson.dumps(
        {"data": [{"embedding": [1.0], "index": 0, "text": "secret"}], "model": "x", "extra": "secret"}
    )
    body, usage = embeddings.read(answer, "m", 1)
    assert b"secret" not in body
    assert usage.prompt_tokens == 0
    with pytest.raises(UpstreamBroken):
        embeddings.read(answer, "m", 2)


def test_the_engines_refusal_is_passed_on(embedding: Running) -> None:
    embedding.engine.script = Script(status=400, message="too long")
    assert post(embedding, {"model": "stdlib", "input": "a"}, path=PATH).json()["error"]["code"] == "engine_refused"
