"""A running gateway for tests: the real listener and enforcement in a thread, in front of the fake engine."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import policies
from policies.access.authorize import Authorizer, ModelState
from policies.access.callers import Callers, create_key
from policies.access.limits import Limits
from policies.bundle import Bundle, compile_bundle, load
from policies.endpoint.audit import DecisionLog
from policies.endpoint.desk import Bounds, Desk, Front
from policies.endpoint.exchange import Served
from policies.endpoint.gateway import Gateway
from policies.endpoint.listener import Listener, bind, url_of
from policies.endpoint.upstream import Upstream
from policies.enforcement.engine import Enforcer
from tests.stubs.engine import FakeEngine, Script
from tests.waiting import until

RULES = """\
name: testing
rules:
  - {id: keys-stay-inside, kind: regex, side: output, type: api_key, pattern: 'sk-[a-z0-9]{8,24}'}
  - {id: cards-stay-inside, kind: regex, side: both, type: card, pattern: '[0-9]{16}', check: luhn}
  - {id: no-weapons, kind: topic, side: both, keywords: [nerve agent, sarin]}
"""
ACCESS = """
@id("members-may-use-models")
permit (principal in Group::"members", action, resource);
@id("operators-may-use-models")
permit (principal in Group::"operators", action, resource);
@id("interns-do-not-chat")
forbid (principal in Group::"interns", action in [Action::"chat", Action::"complete"], resource);
@id("only-operators-constrain-decoding")
forbid (principal, action in [Action::"chat", Action::"complete"], resource)
when { !context.decoding.isEmpty() && !(principal in Group::"operators") };
"""
SECRET, CARD = "sk-abcdef123456", "4111111111111111"
FOLDER = Path(policies.__file__).parent / "bundles" / "default"


class Written:
    """An append function that keeps what it was given; `broken` makes it fail as a full disk does."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, dict[str, Any], str]] = []
        self.broken = False

    def __call__(self, records: Sequence[tuple[str, str, dict[str, Any], str]]) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.records.extend(records)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of one kind."""
        return [body for found, _, body, _ in self.records if found == kind]


def make_bundle(folder: Path, rules: str = RULES, access: str = ACCESS) -> Bundle:
    """Return a bundle with these rules and these access rules."""
    folder.mkdir(parents=True)
    (folder / "bundle.yaml").write_text(rules)
    for name in ("access.cedar", "access.cedarschema"):
        (folder / name).write_text(access if name == "access.cedar" else (FOLDER / name).read_text())
    return load(folder)


@dataclass
class Running:
    """A running gateway with the keys of a member, an operator and an intern."""

    url: str
    gateway: Gateway
    engine: FakeEngine
    log: Written
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def desk(self) -> Desk:
        """The one desk."""
        return self.gateway.desks[0]

    def decisions(self, count: int) -> list[dict[str, Any]]:
        """Return the decisions once there are `count` of them."""
        until(lambda: len(self.log.of("gateway.decision")) >= count)
        return self.log.of("gateway.decision")

    def settled(self) -> bool:
        """Whether every connected caller is silent, no request runs and every decision is written."""
        front, edge = self.gateway.front, self.gateway.edge
        return not (set(edge.open) - set(edge.quiet) or front.metrics.active or front.decisions.waiting)

    def start_afresh(self) -> None:
        """Forget earlier requests once they are through: a decision may come after its answer, and a caller be gone
        before its request was read. Who connected earlier is let in earlier, so the probe comes after all of them.
        """
        assert httpx.get(f"{self.url}/health").status_code == 200
        until(self.settled)
        self.engine.script = Script()
        self.engine.requests.clear()
        self.log.records.clear()


def caller_rows(keys: dict[str, str]) -> list[dict[str, Any]]:
    """Return caller records, and fill in their keys."""
    rows = []
    for name, group, attributes in (
        ("mia", "members", {}),
        ("otto", "operators", {}),
        ("ivy", "interns", {}),
        ("sam", "members", {"requests_per_minute": 2}),
        ("una", "members", {"concurrent_requests": 1, "tokens_per_day": 4000}),
    ):
        keys[name], key_id, key_hash = create_key()
        row = {"name": name, "groups": [group], "attributes": attributes, "key_id": key_id, "key_hash": key_hash}
        rows.append(row)
    return rows


@contextmanager
def gateway_running(
    folder: Path,
    *,
    rules: str = RULES,
    access: str = ACCESS,
    guards: Any = None,
    mode: Any = "group",
    bounds: Bounds | None = None,
    system_prompt: str = "",
    callers: Callable[[list[dict[str, Any]]], Callers] | None = None,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Running]:
    """Yield a gateway in front of a fake engine, both stopped afterwards; `callers` gets the caller records."""
    bundle = make_bundle(folder / "bundle", rules, access)
    keys: dict[str, str] = {}
    rows = caller_rows(keys)
    written = Written()
    served = Served("prod", "stdlib", "engine", "sha256:c", "sha256:cert", bundle.digest, system_prompt)
    log = DecisionLog(written, endpoint="prod", mode=mode)
    with FakeEngine(folder / "engine.sock") as engine:
        desk = Desk(
            served, ModelState("stdlib", "sha256:c", "sha256:cert", "certified"), Enforcer(compile_bundle(bundle)),
            Authorizer(bundle), Upstream(engine.uds), guards or {},
        )  # fmt: skip
        known = callers(rows) if callers is not None else Callers(lambda: rows)
        front = Front(known, log, b"key" * 8, limits or Limits(), bounds=bounds or Bounds())
        gateway = Gateway(front, [desk])
        bound = bind("127.0.0.1", 0)
        listener = Listener(gateway, bound, drain_s=5, tls=tls)
        thread = threading.Thread(target=listener.run, daemon=True)
        url = url_of(bound) if tls is None else url_of(bound).replace("http:", "https:")
        thread.start()
        try:
            until(lambda: listener.started)
            yield Running(url, gateway, engine, written, keys)
        finally:
            listener.stop()
            thread.join(20)
            written.broken = False
            assert log.close(10)
            assert not thread.is_alive()


async def gather(*work: Any) -> list[Any]:
    """Run coroutines side by side."""
    return list(await asyncio.gather(*work))
