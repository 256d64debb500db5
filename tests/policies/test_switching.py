"""From one release to the next under load: no request is dropped, and each answer carries what it was decided under."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from governance import promotion
from policies.serving import proof, switching
from policies.serving.plan import Plan, Upkeep
from policies.serving.proof import Target, Verified
from registry.errors import Locked
from registry.records import Asset
from registry.workspace import Workspace
from tests.policies.serving import ASK, Handle, add_caller, events, other_bundle, promote, register, while_serving
from tests.stubs.engine import Script
from tests.waiting import until

QUICK = Upkeep(drain_s=10)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    for name, value in (("VERIFY_SECONDS", 0.5), ("POINTER_SECONDS", 0.05), ("RETRY_SECONDS", 0.3)):
        monkeypatch.setattr(switching, name, value)


class Gate:
    """Keeps the endpoint from looking, as a store that somebody else has locked does."""

    def __init__(self) -> None:
        self._verify, self._shut, self.turned_away = proof.verify, False, 0

    def verify(self, ws: Workspace, target: Target) -> Verified:
        if self._shut:
            self.turned_away += 1
            raise Locked("the store is locked", hint="wait")
        return self._verify(ws, target)

    def shut(self) -> None:
        """Return once the endpoint has been turned away."""
        self._shut, before = True, self.turned_away
        until(lambda: self.turned_away > before, 60)

    def open(self) -> None:
        self._shut = False
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(proof, "verify", made.verify)
    return made


@dataclass
class Load:
    """Callers that ask one after another, streamed and whole: what each got."""

    url: str
    key: str
    model: str = "prod"
    answers: list[tuple[str, str, bool]] = field(default_factory=list)
    """Certificate, text, streamed."""
    failed: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _callers: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._callers = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(2)]
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for caller in self._callers:
            caller.join(30)

    def _ask(self, stream: bool) -> None:
        body = {"model": self.model, "messages": ASK, "stream": stream}
        with httpx.Client(timeout=30, headers={"authorization": f"Bearer {self.key}"}, trust_env=False) as client:
            while not self._over.wait(0.05):
                try:
                    reply = client.post(f"{self.url}/v1/chat/completions", json=body)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                text = said(reply.text) if stream else ""
                if reply.status_code != 200 or (stream and not text.endswith("[DONE]")):
                    self.failed.append(f"{reply.status_code} {reply.text[-300:]}")
                    continue
                whole = text.removesuffix("[DONE]") if stream else reply.json()["choices"][0]["message"]["content"]
                self.answers.append((reply.headers["x-hallmark-certificate"], whole, stream))

    def more(self, certificate: str, count: int = 8) -> None:
        """Wait for further answers under a certificate, of both kinds."""
        start = len(self.answers)

        def enough() -> bool:
            new = [answer for answer in self.answers[start:] if answer[0] == certificate]
            return len(new) >= count and len({streamed for _, _, streamed in new}) == 2

        until(enough, 60)


def said(page: str) -> str:
    """Return the text of a stream, with its end mark."""
    out = ""
    for line in page.splitlines():
        if line == "data: [DONE]":
            out += "[DONE]"
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            out += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return out


@pytest.fixture
def key(ws: Workspace) -> str:
    return add_caller(ws)


def decisions(ws: Workspace) -> list[dict[str, Any]]:
    return ws.store.query("SELECT certificate, status FROM gateway_decision ORDER BY seq")


def test_another_bundle_is_switched_to_on_the_same_engine(
    ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path
) -> None:
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "same", policy=other_bundle(tmp_path / "bundle"))
    assert following.body["weights"] == prod.body["weights"]
    count: list[int] = []

    def visit(url: str) -> None:
        started[0].handle.engine.script = Script(["he", "llo"], delay=0.02)
        with Load(url, key) as load:
            load.more(first)
            second = promote(ws, following)
            load.more(second)
        assert load.failed == []
        order = [certificate for certificate, _, _ in load.answers]
        assert set(order) == {first, second}
        assert {text for _, text, _ in load.answers} == {"hello"}
        count.append(len(load.answers))

    while_serving(ws, visit, Plan("prod", upkeep=QUICK))
    assert len(started) == 1
    assert len(decisions(ws)) == count[0]
    switched = events(ws, "endpoint.switched")
    assert [(event["before"], event["engine"]) for event in switched] == [(first, "kept")]
    assert events(ws, "endpoint.stopped")[0]["drained"]
    assert list(ws.work("serve").iterdir()) == []


@pytest.mark.parametrize("switch", ["side_by_side", pytest.param("stop_first", marks=pytest.mark.slow)])
def test_other_weights_get_their_own_engine(
    ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path, switch: Any
) -> None:
    """Each answer is of the engine whose certificate it carries, also where a stream began before the switch."""
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "other", voice="good day")

    def visit(url: str) -> None:
        started[0].handle.engine.script = Script(["hel", "lo"], delay=0.05)
        with Load(url, key) as load:
            load.more(first)
            second = promote(ws, following)
            load.more(second)
            until(lambda: started[0].handle.stopped)
        if switch == "side_by_side":
            assert load.failed == []
        else:
            assert load.failed
            assert all(answer.startswith("503") and "another release" in answer for answer in load.failed)
        assert {(certificate, text) for certificate, text, _ in load.answers} == {
            (first, "hello"),
            (second, "good day"),
        }
        until(lambda: len(list(ws.work("serve").glob("endpoint-*/fleet-*"))) == 1)
        assert not started[0].model_dir.exists()
        assert started[1].model_dir.exists()

    while_serving(ws, visit, Plan("prod", upkeep=Upkeep(drain_s=10, switch=switch)))
    assert [event["engine"] for event in events(ws, "endpoint.switched")] == ["new"]


def certificate(url: str, key: str) -> str:
    """Return the certificate that a request is answered under now."""
    body = {"model": "prod", "messages": ASK, "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, headers=headers) as asked:
        return str(asked.headers["x-hallmark-certificate"])


@pytest.mark.slow
def test_a_long_stream_ends_on_the_engine_it_began_on(
    ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path, gate: Gate
) -> None:
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "other", voice="good day")
    got: list[httpx.Response] = []

    def visit(url: str) -> None:
        gate.shut()
        second = promote(ws, following)
        started[0].handle.engine.script = Script(["word "] * 200, delay=0.04)
        body = {"model": "prod", "messages": ASK, "stream": True}
        headers = {"authorization": f"Bearer {key}"}
        ask = lambda: got.append(httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers))  # noqa: E731
        reader = threading.Thread(target=ask)
        reader.start()
        until(lambda: len(started[0].handle.engine.requests) == 1)
        gate.open()
        until(lambda: len(started) == 2 and bool(started[1].handle.engine.script.pieces == ["good day"]), 30)
        until(lambda: certificate(url, key) == second, 30)
        assert not started[0].handle.stopped
        ask()
        assert (got[0].headers["x-hallmark-certificate"], said(got[0].text)) == (second, "good day[DONE]")
        reader.join(20)
        assert (got[1].headers["x-hallmark-certificate"], said(got[1].text)) == (first, "word " * 200 + "[DONE]")
        until(lambda: started[0].handle.stopped)

    while_serving(ws, visit, Plan("prod", upkeep=QUICK))


@pytest.mark.slow
def test_a_rollback_is_a_switch_too(ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path) -> None:
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "other", voice="good day")

    def visit(url: str) -> None:
        with Load(url, key) as load:
            second = promote(ws, following)
            load.more(second)
            promotion.rollback(ws, "prod", reason="worse")
            load.more(first)
        assert load.failed == []

    while_serving(ws, visit, Plan("prod", upkeep=QUICK))
    assert len(started) == 3


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("part", "name"), [("weights", "voice.txt"), pytest.param("bundle", "bundle.yaml", marks=pytest.mark.slow)]
)
def test_the_last_good_release_stays_while_the_next_cannot_be_opened(
    ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path, gate: Gate, part: str, name: str
) -> None:  # fmt: skip
    """A file of it was changed after the promotion had checked it; once it is restored, the switch is made."""
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "other", voice="good day", policy=other_bundle(tmp_path / "bundle"))
    entry = ws.artifacts.manifest(following.body[part]).entry(name)
    assert entry is not None
    stored = ws.artifacts.path(entry.blake3)

    def visit(url: str) -> None:
        with Load(url, key) as load:
            gate.shut()
            second = promote(ws, following)
            flip(stored)
            gate.open()
            until(lambda: len(events(ws, "endpoint.switch_failed")) >= 2, 60)  # it is tried again
            load.more(first)
            flip(stored)
            os.kill(os.getpid(), signal.SIGHUP)
            load.more(second)
        assert load.failed == []

    while_serving(ws, visit, Plan("prod", upkeep=QUICK))
    failure = events(ws, "endpoint.switch_failed")[0]
    assert name in failure["reason"]
    assert failure["kept"] is True
    assert failure["certificate"] != first
    assert len(list(ws.work("serve").iterdir())) == 0


@pytest.mark.slow
def test_what_stays_is_closed_when_its_own_certificate_goes(
    ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine of the next release does not start; the last one is revoked meanwhile."""
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "other", voice="good day")

    def visit(url: str) -> None:
        wait_ready = Handle.wait_ready

        def refuse(self: Handle, timeout: float, progress: Any = None) -> None:
            raise RuntimeError("no memory")

        monkeypatch.setattr(Handle, "wait_ready", refuse)
        promote(ws, following)
        until(lambda: len(events(ws, "endpoint.switch_failed")) >= 1)
        assert httpx.get(f"{url}/ready").status_code == 200
        promotion.revoke(ws, first, reason="found bad")
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        monkeypatch.setattr(Handle, "wait_ready", wait_ready)
        until(lambda: httpx.get(f"{url}/ready").status_code == 200, 20)

    while_serving(ws, visit, Plan("prod", upkeep=QUICK))
    assert "found bad" in events(ws, "endpoint.closed")[0]["reason"]
    assert all(one.handle.stopped for one in started)


@pytest.mark.slow
def test_a_promoted_release_that_is_revoked_again_leaves_the_last_good_one(
    ws: Workspace, prod: Asset, started: list[Any], key: str, tmp_path: Path, gate: Gate
) -> None:
    first = ws.release("prod").certificate
    following = register(ws, tmp_path / "other", voice="good day")

    def visit(url: str) -> None:
        gate.shut()
        promotion.revoke(ws, promote(ws, following), reason="found bad")
        gate.open()
        until(lambda: len(events(ws, "endpoint.switch_failed")) >= 1, 60)
        with Load(url, key) as load:
            load.more(first)
        assert load.failed == []

    while_serving(ws, visit, Plan("prod", upkeep=QUICK))
    assert events(ws, "endpoint.closed") == []
    assert len(started) == 1
