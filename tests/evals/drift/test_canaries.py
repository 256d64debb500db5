"""Canaries over real HTTP: what is asked, what is kept, which replay is the reference, and what goes wrong."""

import httpx
import pytest

from evals.drift import canaries as room
from evals.drift import check
from evals.drift.asking import ask
from registry.errors import EngineFailure, NotFound, Refused, SpecError
from registry.records import Certificate, Release
from tests.stubs.openai_server import FakeEndpoint, refused, said


@pytest.fixture
def promoted(ws):
    """An alias that points at a certificate."""
    from registry import aliases

    def move(mark):
        record = Certificate(f"sha256:{mark}", "sha256:v", f"sha256:{mark}", "2099-01-01T00:00:00+00:00", {})
        asset = ws.register(record, actor="operator")
        now = aliases.head(ws, "prod")
        release = Release("prod", asset.id, f"sha256:{mark}", "sha256:v", "2026-01-01T00:00:00+00:00", "test")
        aliases.move(ws, release, now.id if now else "", "operator")
        return asset.id

    return move


def write(tmp_path, *lines):
    file = tmp_path / "canaries.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_the_built_in_ones_ask_as_chats_or_completions():
    chats, completions = room.read_canaries(None), room.read_canaries(None, chat=False)
    assert len({canary.id for canary in chats}) == len(chats) >= 10
    assert all(canary.messages and not canary.prompt for canary in chats)
    assert all(canary.prompt and not canary.messages for canary in completions)
    assert room.digest(chats, 3) != room.digest(chats, 4) != room.digest(completions, 4)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"id": "a", "prompt": "x"}', '{"id": "a", "prompt": "y"}'], "comes twice"),
        (['{"id": "a"}'], "`messages` or `prompt`"),
        (['{"id": "a", "prompt": "x", "messages": [{"role": "user"}]}'], "`messages` or `prompt`"),
        (['{"id": "a", "promt": "x"}'], "line 1"),
        (["not json"], "line 1"),
        ([""], "no canary"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, lines, says):
    with pytest.raises(SpecError, match=says):
        room.read_canaries(write(tmp_path, *lines))


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        room.read_canaries(tmp_path / "none")


def test_the_first_replay_of_a_certificate_is_the_reference(ws, promoted, tmp_path):
    asked = room.read_canaries(write(tmp_path, '{"id": "a", "messages": [{"role": "user", "content": "hi"}]}'))
    options = {"key": "hk", "actor": "operator", "repeats": 2}
    first = promoted("1")
    with FakeEndpoint(lambda body, count: said(f"answer {count}")) as endpoint:
        assert room.replay(ws, "prod", asked, url=endpoint.base_url, **options)[0] is None
        reference, current = room.replay(ws, "prod", asked, url=endpoint.base_url, **options)
        assert [given.text for given in reference.answers["a"]] == ["answer 1", "answer 2"]
        assert [given.text for given in current.answers["a"]] == ["answer 3", "answer 4"]
        assert reference.certificate == current.certificate == first
        promoted("2")
        assert room.replay(ws, "prod", asked, url=endpoint.base_url, **options)[0] is None


def test_repeats_have_bounds(ws, promoted):
    promoted("1")
    for repeats in (1, 6):
        with pytest.raises(SpecError):
            room.replay(ws, "prod", [], url="http://x", key="", actor="operator", repeats=repeats)


def test_a_rule_that_refuses_is_an_answer_and_a_key_that_is_refused_is_not():
    with FakeEndpoint(lambda body, count: refused(400, "content_filter")) as endpoint:
        found = ask(endpoint.base_url, "hk", "/chat/completions", {})
        assert (found.text, found.refused) == ("", "some-rule")
    with FakeEndpoint(lambda body, count: refused(401, "wrong_api_key")) as endpoint, pytest.raises(Refused):
        ask(endpoint.base_url, "hk", "/chat/completions", {})


@pytest.mark.parametrize(
    "answer", [(500, {"error": "broken"}), (200, b"not json"), (200, b"[]"), (200, {"choices": []})]
)
def test_a_broken_endpoint_is_an_engine_failure(answer):
    with FakeEndpoint(lambda body, count: answer) as endpoint, pytest.raises(EngineFailure):
        ask(endpoint.base_url, "hk", "/chat/completions", {})


def test_another_certificate_than_the_alias_names_is_an_engine_failure(monkeypatch):
    def served(*_, **__):
        headers = {"x-hallmark-certificate": "sha256:other"}
        return httpx.Response(200, headers=headers, json={"choices": [{"text": "x"}]})

    monkeypatch.setattr(httpx, "post", served)
    with pytest.raises(EngineFailure, match="another certificate"):
        ask("http://127.0.0.1:1/v1", "hk", "/completions", {}, certificate="sha256:mine")


def test_replays_are_no_traffic(ws):
    body = {"certificate": "c", "candidate": "c", "canaries": "s", "answers": "", "repeats": 2, "reference": True,
            "requests": [f"r{n}" for n in range(40)]}  # fmt: skip
    ws.record(room.EVENT, "prod", body, actor="operator")
    row = {"endpoint": "prod", "action": "allow", "rules": [], "status": 200, "finish_reason": "stop", "candidate": "c"}
    decided = [("gateway.decision", f"r{n}", {**row, "request_id": f"r{n}"}, "endpoint:prod") for n in range(100)]
    ws.journal.append(decided)
    window = check.check(ws, "prod", actor="operator")
    assert (window.reference["n"], window.current["n"]) == (30, 30)
