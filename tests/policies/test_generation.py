"""The gateway when things go wrong around it: engine, caller, disk, validators, and our own failures."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from policies.endpoint.answer import StreamedAnswer
from policies.endpoint.desk import Bounds
from tests.policies.asking import ASK, HTTP, chat, client, post, raw, streamed
from tests.policies.running import SECRET, Running, gateway_running
from tests.stubs.engine import Script
from tests.waiting import until

SAFE = "the [REDACTED:api_key] is what you need"
SPOKEN = f"the {SECRET} is what you need"


# ---- when things go wrong ------------------------------------------------------------------------------------------


def test_the_engines_own_refusal_is_passed_on_as_a_400(run: Running) -> None:
    run.engine.script = Script(status=400, message="maximum context length is 512 tokens")
    reply = post(run, chat())
    assert reply.status_code == 400
    assert "maximum context length" in reply.json()["error"]["message"]
    run.engine.script = Script(status=500, message=SECRET)
    reply = post(run, chat())
    assert reply.status_code == 502
    assert SECRET not in reply.text
    run.engine.script = Script(status=400, message=SECRET)
    assert SECRET not in post(run, chat()).text


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope",
        b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"choices":[]}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\ndata: [DONE]\n\n",
        b'HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\ndata: {"error":"boom"}\n\n',
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_answers_nonsense_is_a_502(run: Running, raw: bytes, stream: bool) -> None:
    run.engine.script = Script(raw=raw)
    reply = post(run, chat(stream=stream))
    assert reply.status_code == 502
    assert run.decisions(1)[0]["action"] == "error"


def test_an_engine_that_dies_in_mid_stream_releases_nothing_held(run: Running) -> None:
    run.engine.script = Script(["hello ", "sk-abcdef12345", "6"], die_after=2)
    with pytest.raises(openai.APIError) as caught:
        streamed(run)
    assert caught.value.code == "engine_unavailable"
    row = run.decisions(1)[0]
    assert (row["action"], row["output_chars"]) == ("error", len("hello "))


def test_a_caller_who_hangs_up_stops_the_engine(run: Running) -> None:
    run.engine.script = Script(["word "] * 1000, delay=0.01)
    aborted = run.engine.aborted
    stream = client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: run.engine.aborted == aborted + 1)
    row = run.decisions(1)[0]
    assert (row["status"], row["finish_reason"], row["action"]) == (499, "disconnect", "allow")


def test_a_caller_who_hangs_up_while_waiting_stops_the_engine(run: Running) -> None:
    run.engine.script = Script(["sk-abcdef"], hang_after=1)
    aborted = run.engine.aborted
    host, port = run.url.removeprefix("http://").split(":")
    body = json.dumps(chat(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {run.keys['mia']}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head.encode() + body)
        until(lambda: len(run.engine.requests) == 1)
    until(lambda: run.engine.aborted == aborted + 1)
    assert run.decisions(1)[0]["output_chars"] == 0


def test_every_request_has_exactly_one_decision(run: Running) -> None:
    run.engine.script = Script(["fine"])
    for number in range(60):
        kind = number % 6
        if kind == 0:
            post(run, chat())
        elif kind == 1:
            post(run, chat(stream=True))
        elif kind == 2:
            post(run, b"{")
        elif kind == 3:
            post(run, chat(), "nobody")
        elif kind == 4:
            post(run, chat(), "ivy")
        else:
            post(run, chat(), path="/nowhere")
    decided = run.decisions(60)
    assert len(decided) == 60
    assert len({row["request_id"] for row in decided}) == 60
    assert sorted({row["status"] for row in decided}) == [200, 400, 401, 403, 404]
    answered = {row["request_id"] for row in decided if row["status"] == 200}
    assert {row["request_id"] for row in run.log.of("gateway.intent")} <= answered


def test_metrics_need_a_key_and_name_nobody(run: Running) -> None:
    post(run, chat())
    page = HTTP.get(f"{run.url}/metrics", headers={"authorization": f"Bearer {run.keys['mia']}"}).text
    assert 'hallmark_requests_total{surface="chat",action="allow",status="200"}' in page
    assert "mia" not in page


# ---- gateways of their own -------------------------------------------------------------------------------------------


def test_engine_gone_means_503_and_not_ready(tmp_path: Path) -> None:
    with gateway_running(tmp_path) as run:
        assert HTTP.get(f"{run.url}/ready").status_code == 200
        run.engine.stop()
        assert post(run, chat()).status_code == 503
        run.desk.closed["engine"] = "the engine has stopped"
        assert HTTP.get(f"{run.url}/ready").status_code == 503
        assert HTTP.get(f"{run.url}/health").status_code == 200
        reply = post(run, chat())
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")


def test_too_slow_is_a_504(tmp_path: Path) -> None:
    with gateway_running(tmp_path, bounds=Bounds(request_s=0.3)) as run:
        run.engine.script = Script(["a", "b"], hang_after=0)
        assert post(run, chat(stream=True)).status_code == 504
        until(lambda: run.engine.aborted == 1)


def test_a_log_that_cannot_be_written_refuses_and_recovers(tmp_path: Path) -> None:
    with gateway_running(tmp_path) as run:
        run.log.broken = True
        assert post(run, chat()).status_code == 200  # its record is queued, not lost
        until(lambda: not run.gateway.front.decisions.healthy)
        assert post(run, chat()).json()["error"]["code"] == "log_unavailable"
        assert HTTP.get(f"{run.url}/ready").status_code == 503
        run.log.broken = False
        until(lambda: run.gateway.ready)
        assert post(run, chat()).status_code == 200
        assert len(run.decisions(3)) == 3


def test_strict_mode_writes_before_it_answers(tmp_path: Path) -> None:
    with gateway_running(tmp_path, mode="strict") as run:
        for stream in (False, True):
            assert post(run, chat(stream=stream)).status_code == 200
        assert len(run.log.of("gateway.decision")) == 2  # no waiting: it was durable before the end mark
        assert len(run.log.of("gateway.intent")) == 2
        run.log.broken = True
        run.engine.requests.clear()
        assert post(run, chat()).status_code == 503
        assert run.engine.requests == []


def test_a_place_and_tokens_are_given_back_however_a_request_ends(run: Running) -> None:
    ends = [
        (Script(["fine"]), chat(), 200),
        (Script(["fine"]), chat(stream=True), 200),
        (Script(["fine"]), {"model": "stdlib"}, 400),
        (Script(["fine"]), chat(model="other"), 404),
        (Script(["fine"]), chat(messages=[{"role": "user", "content": "sarin"}]), 400),
        (Script(["sarin"]), chat(), 400),
        (Script(["sarin"]), chat(stream=True), 400),
        (Script(status=500), chat(), 502),
        (Script(["a", "b"], die_after=1), chat(stream=True), 200),
    ]
    for script, body, status in ends * 2:
        run.engine.script = script
        assert post(run, body, "una").status_code == status
    run.engine.script = Script(["fine"])
    assert post(run, chat(max_tokens=100_000), "una").status_code == 429  # more than a day's tokens


FORMAT = """\
name: fixed
rules:
  - {id: yes-or-no, kind: choice, choices: ["yes", "no"]}
"""


def test_a_fixed_format_is_injected_and_checked(tmp_path: Path) -> None:
    with gateway_running(tmp_path, rules=FORMAT) as run:
        run.engine.script = Script(["y", "es"])
        assert streamed(run) == "yes"
        assert run.engine.requests[0]["structured_outputs"] == {"choice": ["yes", "no"]}
        run.engine.script = Script(["may", "be"])
        for stream in (False, True):
            assert post(run, chat(stream=stream)).json()["error"]["rules"] == ["yes-or-no"]
        refused = post(run, chat(structured_outputs={"choice": ["maybe"]}), "otto")
        assert refused.json()["error"]["code"] == "format_is_fixed"
        tool = {"type": "function", "function": {"name": "look"}}
        for forced in ("required", {"type": "function", "function": {"name": "look"}}):
            refused = post(run, chat(tools=[tool], tool_choice=forced), "otto")
            assert refused.json()["error"]["code"] == "format_is_fixed"


def test_a_body_that_does_not_come_is_a_408(tmp_path: Path) -> None:
    with gateway_running(tmp_path, bounds=Bounds(body_s=0.2)) as run:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {run.keys['mia']}\r\n"
        head += "content-type: application/json\r\ncontent-length: 100\r\n\r\n"
        assert raw(run, head, b'{"model":').startswith(b"HTTP/1.1 408")
        assert run.decisions(1)[0]["status"] == 408


def test_a_websocket_is_not_a_way_in(run: Running) -> None:
    head = "GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n"
    assert b"HTTP/1.1 405" in raw(run, head)


def test_smuggled_requests_are_each_checked(run: Running) -> None:
    both = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = raw(run, both, b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b" 200 " not in answer
    assert run.engine.requests == []


def test_a_failure_of_ours_denies_and_tells_nothing(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("the secret inside")

    for part, name in ((run.desk.enforcer, "check_input"), (run.desk.enforcer, "check_output"),
                       (run.gateway.front.limits, "admit")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(type(part), name, broken)
            reply = post(run, chat())
        assert reply.status_code == 500
        assert "secret inside" not in reply.text
    assert [row["action"] for row in run.decisions(3)] == ["error"] * 3


def test_a_failure_of_ours_in_mid_stream_ends_the_stream(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    run.engine.script = Script(["one ", "two ", "three"], delay=0.1)
    chunks = iter(client(run).chat.completions.create(model="stdlib", messages=ASK, stream=True))
    assert next(chunks).choices[0].delta.content == "one "
    monkeypatch.setattr(StreamedAnswer, "feed", lambda *_: 1 / 0)
    with pytest.raises(openai.APIError) as caught:
        list(chunks)
    assert caught.value.code == "internal_error"


def test_the_certified_system_prompt_comes_first(tmp_path: Path) -> None:
    with gateway_running(tmp_path, system_prompt="be brief") as run:
        post(run, chat())
        assert run.engine.requests[0]["messages"] == [{"role": "system", "content": "be brief"}, *ASK]
