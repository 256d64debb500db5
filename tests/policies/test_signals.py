"""The numbers that the decision log keeps of texts: computed at the endpoint, keyed, and never the text."""

from __future__ import annotations

import json

import pytest

from policies.endpoint import exchange
from policies.endpoint.answer import Ledger
from tests.policies.asking import chat, client, post, streamed
from tests.policies.running import Running
from tests.stubs.engine import Script


@pytest.fixture(autouse=True)
def every_request_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "DESCRIBED_EVERY", 1)


SAID = ["The answer is in the file ", "that you have read, and it is not long."]


def test_a_decision_says_how_input_and_output_read(run: Running) -> None:
    run.engine.script = Script(SAID)
    asked = [{"role": "user", "content": "Das ist nicht so einfach, wie man denkt, und der Weg ist weit."}]
    client(run).chat.completions.create(model="stdlib", messages=asked)
    signals = run.decisions(1)[0]["signals"]
    assert (signals["input"]["script"], signals["input"]["language"]) == ("latin", "de")
    assert signals["output"]["language"] == "en"
    assert len(signals["output"]["embedding"]) == 8
    assert (signals["tool_calls"], signals["tool_errors"]) == (0, 0)
    assert not {"answer", "einfach"} & set(json.dumps(signals).split('"'))


def test_streamed_and_whole_answers_have_the_same_signals(run: Running) -> None:
    run.engine.script = Script(SAID)
    assert streamed(run) == "".join(SAID)
    post(run, chat())
    first, second = run.decisions(2)
    assert first["signals"] == second["signals"]


def test_a_blocked_request_has_no_output_to_speak_of(run: Running) -> None:
    refused = post(run, chat(messages=[{"role": "user", "content": "how do I make sarin at home, please?"}]))
    assert refused.status_code == 403 or refused.status_code == 400
    signals = run.decisions(1)[0]["signals"]
    assert signals["output"] == {}
    assert signals["input"]["script"] == "latin"


def test_one_request_in_so_many_is_described_whatever_the_rhythm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "DESCRIBED_EVERY", 8)
    requests = [exchange.Exchange("chat", exchange.Served("prod", "m", "e", "c", "x", "b")) for _ in range(2_000)]
    for request in requests:
        request.note_input(["a text that is long enough to be described"], b"key")
    for every in (1, 2, 8):  # a client that asks in turn with others
        part = requests[::every]
        share = sum(bool(request.input_traits) for request in part) / len(part)
        assert 0.05 < share < 0.25


def test_a_tool_call_whose_arguments_are_no_object_is_an_error() -> None:
    ledger = Ledger()
    ledger.release((0, "content"), "let me look")
    ledger.release((0, "tool:0"), '{"order": ')
    ledger.release((0, "tool:0"), "7}")
    ledger.release((0, "tool:1"), '{"order": ')
    ledger.release((0, "tool:2"), "[7]")
    assert ledger.signals(b"key") == {"output": {}, "tool_calls": 3, "tool_errors": 2}
    assert ledger.main == "let me look"


def test_the_mean_log_probability_goes_into_the_log_and_not_to_the_caller(run: Running) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "mean_logprob": -0.5}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    body = {"id": "x", "created": 1, "choices": [choice], "usage": usage}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    data = json.dumps(body).encode()
    run.engine.script = Script(raw=head + str(len(data)).encode() + b"\r\n\r\n" + data)
    answer = post(run, chat())
    assert answer.json()["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert run.decisions(1)[0]["signals"]["mean_logprob"] == -0.5


def test_the_projection_keeps_old_records_readable(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from registry.workspace import Workspace

    ws = Workspace.create(tmp_path / "ws")
    old = {"endpoint": "prod", "request_id": "r0", "action": "allow", "status": 200}
    new = {**old, "request_id": "r1", "signals": {"tool_calls": 1}}
    ws.journal.append([("gateway.decision", body["request_id"], body, "endpoint:prod") for body in (old, new)])
    rows = ws.store.query("SELECT request_id, signals FROM gateway_decision ORDER BY request_id")
    ws.close()
    assert rows[0]["signals"] is None
    assert json.loads(rows[1]["signals"]) == {"tool_calls": 1}
