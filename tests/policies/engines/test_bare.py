"""A bare engine for evaluations: the candidate's own prompt and defaults, one key, three routes, gone when closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from policies.serving.bare import BareEngine
from registry.errors import EngineFailure, NotFound, Tampered
from registry.records import Candidate, sha256
from registry.workspace import Workspace

SYSTEM = "You answer in one word."
ASK = {"model": "engine", "messages": [{"role": "user", "content": "Say something."}]}


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    opened = Workspace.create(tmp_path_factory.mktemp("bare") / "ws")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def candidate(ws: Workspace, make_folder: Callable[..., Path]) -> Candidate:
    manifest = ws.artifacts.add_tree(make_folder())
    generation = {"max_new_tokens": 5, "do_sample": False, "system_prompt": SYSTEM}
    return Candidate("v", manifest.id, "t", "c", sha256(SYSTEM.encode()), generation, "transformers", "5", "none", "b")


@pytest.fixture(scope="module")
def engine(ws: Workspace, candidate: Candidate) -> Iterator[BareEngine]:
    started = BareEngine.start(ws, candidate)
    yield started
    started.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{started.base_url}/models", trust_env=False)
    assert list(ws.work("serve").iterdir()) == []


def client(engine: BareEngine, key: str = "") -> httpx.Client:
    return httpx.Client(headers={"Authorization": f"Bearer {key or engine.api_key}"}, trust_env=False, timeout=60)


def test_it_answers_with_the_candidates_prompt_and_defaults(engine: BareEngine) -> None:
    with client(engine) as http:
        assert [model["id"] for model in http.get(f"{engine.base_url}/models").json()["data"]] == ["engine"]
        answer = http.post(f"{engine.base_url}/chat/completions", json=ASK).json()
        again = http.post(f"{engine.base_url}/chat/completions", json=ASK).json()
    assert answer["usage"]["completion_tokens"] <= 5
    assert answer["usage"]["prompt_tokens"] > len(ASK["messages"][0]["content"])  # the system prompt is there too
    assert again["choices"][0]["message"] == answer["choices"][0]["message"]  # greedy, as the candidate says


def test_another_key_and_other_routes_are_refused(engine: BareEngine) -> None:
    with client(engine, "guessed") as http:
        assert http.post(f"{engine.base_url}/chat/completions", json=ASK).status_code == 401
    with client(engine) as http:
        assert http.get(engine.base_url.removesuffix("/v1") + "/metrics").status_code == 404
        assert http.post(f"{engine.base_url}/load_lora_adapter", json={}).status_code == 404


def test_an_adapter_answers_where_the_candidate_has_one(
    ws: Workspace, candidate: Candidate, engine: BareEngine, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    weights = ws.artifacts.checkout(candidate.weights, tmp_path / "weights")
    adapter = ws.artifacts.add_tree(make_adapter(weights, seed=4))
    tuned = BareEngine.start(ws, replace(candidate, adapter=adapter.id))
    try:
        with client(tuned) as http:
            told = http.post(f"{tuned.base_url}/chat/completions", json={**ASK, "model": tuned.model}).json()
    finally:
        tuned.close()
    with client(engine) as http:
        plain = http.post(f"{engine.base_url}/chat/completions", json={**ASK, "model": engine.model}).json()
    assert (engine.model, tuned.model) == ("engine", "adapter")
    assert told["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]


def test_what_is_not_loadable_is_refused_before_anything_starts(ws: Workspace, candidate: Candidate) -> None:
    with pytest.raises(NotFound):
        BareEngine.start(ws, replace(candidate, adapter=candidate.weights))
    with pytest.raises(EngineFailure, match="cannot make weights fp8"):
        BareEngine.start(ws, replace(candidate, quantisation="fp8"))
    with pytest.raises(Tampered, match="system prompt"):
        BareEngine.start(ws, replace(candidate, system_prompt="sha256:" + "b" * 64))
