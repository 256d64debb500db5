"""What the endpoint tells systemd, over a real socket, and the unit that it prints."""

from __future__ import annotations

import asyncio
import configparser
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.serving import systemd, unit
from policies.serving.plan import Plan, Remote
from policies.serving.systemd import Notifier, inherited_socket
from registry.errors import SpecError
from registry.records import Asset
from registry.workspace import Workspace
from tests.policies.serving import while_serving


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The datagram socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(5)
        yield bound


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_it_says_ready_reloading_and_stopping(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    notifier.ready("serving prod")
    assert heard(manager) == ["READY=1", "STATUS=serving prod"]
    notifier.reloading()
    first, moment = heard(manager)
    assert first == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=")
    notifier.stopping()
    assert heard(manager)[0] == "STOPPING=1"


def test_the_watchdog_is_fed_twice_a_period(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager, WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid())))
    assert notifier.watchdog_s == 0.1

    async def feed() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await notifier.feed()

    asyncio.run(feed())
    manager.setblocking(False)
    fed = 0
    while True:
        try:
            assert heard(manager) == ["WATCHDOG=1"]
        except BlockingIOError:
            break
        fed += 1
    assert fed >= 3


@pytest.mark.parametrize(
    "more", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}], ids=["none", "odd", "other"]
)
def test_nobody_is_fed_who_did_not_ask(manager: socket.socket, more: dict[str, str]) -> None:
    assert Notifier(environment(manager, **more)).watchdog_s == 0.0


def test_an_abstract_socket_is_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0hallmark-test-{os.getpid()}")
        bound.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@hallmark-test-{os.getpid()}"}).status("well")
        assert bound.recv(100) == b"STATUS=well"


def test_a_manager_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    Notifier({}).ready("x")


def test_a_passed_socket_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        given = os.dup(bound.fileno())
        monkeypatch.setattr(systemd, "FIRST_SOCKET", given)
        found = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "OTHER": "y"}
        taken = inherited_socket(found)
        assert taken is not None
        with taken:
            assert taken.getsockname() == bound.getsockname()
            assert not os.get_inheritable(given)
        assert found == {"OTHER": "y"}
        assert inherited_socket(found) is None
        assert inherited_socket({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None


def test_the_endpoint_notifies(
    ws: Workspace, prod: Asset, started: list[Any], manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")

    def visit(url: str) -> None:
        said = [heard(manager) for _ in range(2)]
        assert ["WATCHDOG=1"] in said
        assert ["READY=1", f"STATUS=serving prod at {url}"] in said
        assert httpx.get(f"{url}/health").status_code == 200

    while_serving(ws, visit, alias="prod")
    assert any(heard(manager)[0] == "STOPPING=1" for _ in range(8))


# ---- the unit ----------------------------------------------------------------------------------------------------


def parsed(text: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=True, interpolation=None, allow_no_value=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(text)
    return found


def test_the_unit_is_hardened_and_serves_the_plan(tmp_path: Path) -> None:
    plan = Plan("prod", host="0.0.0.0", port=8443, also=("code",))
    text = unit.unit_text(tmp_path, plan, user="hallmark")
    found = parsed(text)
    service = dict(found["Service"])
    assert service["Type"] == "notify"
    assert service["ExecStart"].startswith(sys.executable)
    assert service["ExecStart"].endswith(
        f"serve prod --also code --workspace {tmp_path.resolve()} --host 0.0.0.0 --port 8443"
    )
    for name, value in (
        ("User", "hallmark"), ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("PrivateTmp", "yes"),
        ("ReadWritePaths", str(tmp_path.resolve())), ("LimitNOFILE", "65536"), ("CapabilityBoundingSet", ""),
        ("RestartPreventExitStatus", "1 2"),
    ):  # fmt: skip
        assert service[name] == value
    assert unit.unit_name(plan) == "hallmark-prod.service"


def test_a_low_port_and_an_unverified_engine_are_in_the_unit(tmp_path: Path) -> None:
    plan = Plan("prod", port=443, engine="unsafe_unverified", remote=Remote("http://127.0.0.1:9"))
    service = parsed(unit.unit_text(tmp_path, plan))["Service"]
    assert service["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert service["ExecStart"].endswith("--engine unsafe_unverified")


def test_words_that_systemd_would_read_otherwise_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "100%$x"
    folder.mkdir()
    text = unit.unit_text(folder, Plan("prod"))
    assert '100%%$$x"' in text
    spaced = tmp_path / "with space"
    spaced.mkdir()
    with pytest.raises(SpecError, match="with space"):
        unit.unit_text(spaced, Plan("prod"))
    with pytest.raises(SpecError, match="permit"):
        unit.unit_text(tmp_path, Plan(permit="abc"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_reads_the_unit_without_complaint(tmp_path: Path) -> None:
    plan = Plan("prod", port=8443)
    file = tmp_path / unit.unit_name(plan)
    file.write_text(unit.unit_text(tmp_path, plan, user="root"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, check=False)
    about = [line for line in (done.stdout + done.stderr).splitlines() if file.name in line]
    assert about == []
