"""The OpenAPI document: it names what the endpoint takes, and the endpoint keeps to it whatever it is sent."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from policies.endpoint.gateway import ROUTES
from policies.wire.openapi import document
from policies.wire.request import _DECODERS
from tests.policies.asking import HTTP, chat, post
from tests.policies.running import Running
from tests.stubs.engine import Script

POSTS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/responses": "responses",
         "/v1/embeddings": "embeddings"}  # fmt: skip


def test_it_names_every_route_and_field() -> None:
    paths = document()["paths"]
    assert {path: next(iter(said)).upper() for path, said in paths.items()} == ROUTES
    schemas = document()["components"]["schemas"]
    for surface in POSTS.values():
        schema = schemas[_DECODERS[surface].type.__name__]
        assert set(schema["properties"]) == set(_DECODERS[surface].type.__struct_fields__)
        assert schema["additionalProperties"] is False
    assert set(schemas["Usage"]["properties"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert not [name for name in schemas if "." in name]


def schema_of(reply: httpx.Response, path: str) -> Any:
    said = document()
    answer = said["paths"][path]["post"]["responses"][str(reply.status_code)]["content"]["application/json"]["schema"]
    return {**answer, "components": said["components"]}


def test_answers_fit_it(run: Running) -> None:
    run.engine.script = Script(deltas=[{"reasoning": "a"}, {"content": "b"}])
    for path, body in (
        ("/v1/chat/completions", chat()),
        ("/v1/chat/completions", chat(nonsense=1)),
        ("/v1/completions", {"model": "stdlib", "prompt": "a"}),
        ("/v1/responses", {"model": "stdlib", "input": "a"}),
        ("/v1/embeddings", {"model": "stdlib", "input": "a"}),
    ):
        reply = post(run, body, path=path)
        jsonschema.validate(reply.json(), schema_of(reply, path))


def test_models_fit_it(run: Running) -> None:
    said = document()
    for path, asked, status in (
        ("/v1/models", "/v1/models", "200"),
        ("/v1/models/{model}", "/v1/models/stdlib", "200"),
        ("/v1/models/{model}", "/v1/models/other", "404"),
    ):
        reply = HTTP.get(run.url + asked, headers={"authorization": f"Bearer {run.keys['mia']}"})
        assert reply.status_code == int(status)
        schema = said["paths"][path]["get"]["responses"][status]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.json(), {**schema, "components": said["components"]})
    parameters = said["paths"]["/v1/models/{model}"]["get"]["parameters"]
    assert [each["name"] for each in parameters] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("valid", [True, False], ids=["valid", "invalid"])
@pytest.mark.parametrize("path", POSTS)
def test_generated_requests_get_answers_that_fit_it(run: Running, path: str, valid: bool) -> None:
    import schemathesis
    from schemathesis import GenerationMode, checks
    from schemathesis.specs.openapi import checks as specs

    run.engine.script = Script(["fine"])
    schema = schemathesis.openapi.from_dict(document())
    operation = schema[path]["POST"]
    mode = GenerationMode.POSITIVE if valid else GenerationMode.NEGATIVE
    headers = {"authorization": f"Bearer {run.keys['otto']}"}
    kept = [checks.not_a_server_error, specs.status_code_conformance, specs.content_type_conformance,
            specs.response_schema_conformance]  # fmt: skip
    seen: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and valid:
            case.body["model"] = "stdlib"
        reply = case.call(base_url=run.url, headers=headers)
        case.validate_response(reply, checks=kept)
        seen.add(reply.status_code)
        if reply.status_code != 200:
            said = reply.json()["error"]
            assert set(said) == {"message", "type", "param", "code", "rules", "request_id"}

    check()
    assert seen <= {200, 400, 401, 403, 404, 413, 415}
    assert HTTP.get(f"{run.url}/health").status_code == 200
