"""An endpoint in a child process, with the built-in engine on a tiny random model behind the quickstart's policy."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from governance import candidates, permits
from governance.setup import create_workspace
from policies.serve import Endpoint
from registry.errors import EngineFailure, NotFound, Refused, SpecError
from registry.records import ModelVersion, Run
from registry.workspace import Workspace
from tests.policies.engines.conftest import folder, make_folder, tokenizer  # noqa: F401 - fixtures of the tiny model
from tests.waiting import until

POLICY = Path(__file__).parents[2] / "examples" / "quickstart" / "policy"
SECRET = "ghp_" + "a1B2c3D4" * 5
ASK = [{"role": "user", "content": "What is the key?"}]


def _workspace(root: Path, model: Path) -> Workspace:
    ws = create_workspace(root)
    manifest = ws.artifacts.add_tree(model)
    run = ws.register(Run("pretrain", "sha256:r", {}, [], None, "x", 1, 1, {}, {}), actor="trainer")
    record = ModelVersion("tiny", manifest.id, run.id, None, [], "MistralForCausalLM", 64, {})
    version = ws.register(record, actor="trainer", name="tiny", parents=[("run", run.id)])
    candidates.create(ws, version.id, policy=str(POLICY), actor="trainer")
    return ws


def _permit(ws: Workspace, minutes: float = 20) -> str:
    return permits.issue(ws, ws.assets("candidate")[0].id, "sha256:s", actor="evaluator", minutes=minutes)


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Workspace]:  # noqa: F811
    opened = _workspace(tmp_path_factory.mktemp("child") / "ws", folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def endpoint(ws: Workspace) -> Iterator[Endpoint]:
    told: list[str] = []
    started = Endpoint.start(ws, permit=_permit(ws), progress=lambda stage, *_: told.append(stage))
    assert "starting engine" in told
    yield started
    started.close()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0, timeout=60) as opened:
        yield opened


def _model(endpoint: Endpoint) -> str:
    return f"permit/{endpoint.permit}"


@pytest.mark.slow
def test_a_real_engine_answers_behind_its_policy(endpoint: Endpoint, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [_model(endpoint)]
    ask: dict[str, Any] = {"model": _model(endpoint), "messages": ASK, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 12


@pytest.mark.slow
def test_a_forced_secret_is_removed_in_mid_stream(endpoint: Endpoint, client: openai.OpenAI) -> None:
    forced = {"structured_outputs": {"choice": [f"the key is {SECRET} ok"]}}
    chunks = list(
        client.chat.completions.create(
            model=_model(endpoint),
            messages=ASK,
            max_tokens=120,
            stream=True,
            extra_body=forced,  # type: ignore[arg-type]
        )
    )
    pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert "".join(pieces) == "the key is [REDACTED:github_token] ok"
    assert len(pieces) > 3  # it was streamed: this policy's validator is for completions only


@pytest.mark.slow
def test_a_validator_withholds_a_shouted_completion(endpoint: Endpoint, client: openai.OpenAI) -> None:
    loud = "THE BUILD IS BROKEN AGAIN AND NOBODY HAS LOOKED AT IT SINCE FRIDAY"
    for stream in (False, True):
        with contextlib.suppress(openai.BadRequestError):
            answer: Any = client.completions.create(
                model=_model(endpoint), prompt="Say:", max_tokens=90, stream=stream,
                extra_body={"structured_outputs": {"choice": [loud]}},
            )  # fmt: skip
            said = "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
            assert "BUILD" not in said


@pytest.mark.slow
def test_json_is_kept_to_its_schema(endpoint: Endpoint, client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model=_model(endpoint),
        messages=ASK,
        max_tokens=60,
        response_format=form,  # type: ignore[arg-type]
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)


@pytest.mark.slow
def test_closing_writes_every_decision_and_leaves_nothing(ws: Workspace) -> None:
    with Endpoint.start(ws, permit=_permit(ws)) as started:
        process = started._process
        with httpx.Client(base_url=started.base_url, headers={"authorization": f"Bearer {started.api_key}"}) as http:
            body = {"model": _model(started), "prompt": "x", "max_tokens": 2}
            codes = [http.post("/completions", json=body).status_code for _ in range(20)]
        assert codes == [200] * 20
    assert process.returncode == 0
    mine = "SELECT request_id FROM gateway_decision WHERE endpoint = ?"
    assert len(ws.store.query(mine, [_model(started)])) == 20
    assert len(list(ws.work("serve").iterdir())) <= 1  # the module's own endpoint


@pytest.mark.slow
def test_a_killed_parent_takes_its_endpoint_along(ws: Workspace) -> None:
    script = f"""
import sys, time
from pathlib import Path
from policies.serve import Endpoint
from registry.workspace import Workspace
started = Endpoint.start(Workspace.open(Path({str(ws.root)!r})), permit={_permit(ws)!r})
print(started.base_url, flush=True)
time.sleep(600)
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip().removesuffix("/v1")
    assert httpx.get(f"{url}/ready").status_code == 200
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            httpx.get(f"{url}/health", timeout=1)
        except httpx.HTTPError:
            return True
        return False

    until(gone, 40)


def test_a_child_tells_its_parent_why_it_did_not_start(tmp_path: Path) -> None:
    ws = create_workspace(tmp_path / "ws")
    with pytest.raises(NotFound, match="no permit"):
        Endpoint.start(ws, permit="0123456789abcdef")
    ws.close()


@pytest.mark.slow
def test_an_engine_that_cannot_start_is_told(tmp_path: Path, folder: Path) -> None:  # noqa: F811
    broken = tmp_path / "model"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "config.json").write_text("{}")
    ws = _workspace(tmp_path / "ws", broken)
    with pytest.raises((EngineFailure, SpecError, Refused)) as caught:
        Endpoint.start(ws, permit=_permit(ws))
    assert caught.value.hint
    assert list(ws.work("serve").iterdir()) == []
    ws.close()
