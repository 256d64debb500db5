"""Recorded texts: what is kept, what is read back, what can be erased."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.endpoint import recording
from policies.endpoint.recording import Recorder
from registry.workspace import Workspace
from tests.policies.asking import chat, post
from tests.policies.running import CARD, SECRET, Running, gateway_running
from tests.stubs.engine import Script
from tests.waiting import until

KEY = b"key" * 8


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    opened = Workspace.create(tmp_path / "ws")
    (opened.root / "keys").mkdir(exist_ok=True)
    (opened.root / "keys" / "decision-log.key").write_bytes((KEY * 2)[:32])
    yield opened
    opened.close()


@pytest.fixture
def run(tmp_path: Path, ws: Workspace) -> Iterator[Running]:
    """A gateway whose bundle wants its texts recorded."""
    with gateway_running(tmp_path / "gateway") as running:
        running.desk.records = True
        running.gateway.front.hash_key = (KEY * 2)[:32]
        recorder = recording.recorder_of(ws)
        running.gateway.front.observers = (recorder,)
        yield running
        recorder.close()


def kept(ws: Workspace, count: int) -> list[recording.Recorded]:
    until(lambda: len(list(recording.recorded(ws))) >= count)
    return list(recording.recorded(ws))


def test_what_was_asked_and_released_is_kept_and_matches_the_decision(run: Running, ws: Workspace) -> None:
    run.engine.script = Script(pieces=["the key is ", SECRET, " ok"])
    message = [{"role": "user", "content": f"my card is {CARD} \N{GRINNING FACE}"}]
    answer = post(run, chat(messages=message))
    assert answer.status_code == 200
    (found,) = kept(ws, 1)
    (decision,) = run.decisions(1)
    assert found.request_id == answer.headers["x-hallmark-receipt"] == decision["request_id"]
    assert found.inputs == (f"my card is {CARD} \N{GRINNING FACE}",)
    assert found.outputs == (("0/content", "the key is [REDACTED:api_key] ok"),)
    assert (found.input_hash, found.output_hash) == (decision["input_hash"], decision["output_hash"])
    assert found.intact
    assert json.loads(found.body)["messages"] == message
    assert (found.caller, found.groups, found.action) == ("mia", ("members",), "redact")
    assert set(found.rules) == {"members-may-use-models", "keys-stay-inside", "cards-stay-inside"}


def test_a_stream_and_a_whole_answer_are_recorded_alike(run: Running, ws: Workspace) -> None:
    run.engine.script = Script(pieces=["one ", SECRET, " two"])
    post(run, chat())
    post(run, chat(stream=True))
    whole, streamed = kept(ws, 2)
    assert whole.outputs == streamed.outputs
    assert whole.output_hash == streamed.output_hash
    assert streamed.intact


def test_nothing_is_kept_where_the_bundle_does_not_ask_for_it(run: Running, ws: Workspace) -> None:
    run.desk.records = False
    post(run, chat())
    run.decisions(1)
    run.desk.records = True
    post(run, chat())
    assert [found.request_id for found in kept(ws, 1)] == [run.decisions(2)[1]["request_id"]]


def test_a_denied_request_is_kept_without_an_answer(run: Running, ws: Workspace) -> None:
    assert post(run, chat(), name="ivy").status_code == 403
    (found,) = kept(ws, 1)
    assert (found.action, found.inputs, found.outputs, found.intact) == ("deny", (), (), True)
    assert json.loads(found.body)["model"] == "stdlib"


def test_a_changed_text_is_told(run: Running, ws: Workspace) -> None:
    post(run, chat())
    kept(ws, 1)
    (path,) = recording.folder_of(ws).glob("*.jsonl")
    path.write_text(path.read_text().replace("what is the key?", "what is the sky?"))
    (found,) = recording.recorded(ws)
    assert not found.intact


def test_files_are_private_and_a_torn_line_harms_only_itself(run: Running, ws: Workspace) -> None:
    post(run, chat())
    first = kept(ws, 1)
    (path,) = recording.folder_of(ws).glob("*.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("a") as file:
        file.write('{"request_id": "torn')
    post(run, chat())
    assert [found.intact for found in kept(ws, 2)] == [True, True]
    assert recording.find(ws, first[0].request_id) == first[0]
    assert recording.find(ws, "hr-none") is None


def test_a_callers_texts_can_be_erased_and_the_rest_stays(run: Running, ws: Workspace) -> None:
    post(run, chat(), name="mia")
    post(run, chat(), name="otto")
    kept(ws, 2)
    assert recording.erase(ws, caller="mia") == 1
    assert [found.caller for found in recording.recorded(ws)] == ["otto"]
    assert recording.erase(ws, caller="otto", before="2000-01-01") == 0
    assert recording.erase(ws, before="2999-01-01") == 1
    assert list(recording.folder_of(ws).glob("*.jsonl")) == []
    with pytest.raises(ValueError, match="name a caller"):
        recording.erase(ws)


def test_a_full_disk_loses_the_recording_and_counts_it(run: Running, ws: Workspace, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    recorder = Recorder(blocked / "recordings", KEY)
    run.gateway.front.observers = (recorder,)
    assert post(run, chat()).status_code == 200
    until(lambda: recorder.lost == 1)
    assert not recorder.close()
