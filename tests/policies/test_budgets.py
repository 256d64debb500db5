"""Budgets on disk: a restart, a kill, a damaged file, a full disk and a clock that jumps are no new budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.access import budgets
from policies.access.authorize import Caller
from policies.access.callers import Callers
from policies.access.limits import SHARE, Limits
from policies.wire.refusal import Refusal
from registry.errors import Locked
from tests.policies.running import gateway_running

ROOT = Path(__file__).resolve().parents[2]
WHO = Caller("mia", frozenset(), {"requests_per_minute": 60, "tokens_per_day": 86_400})
"""Refills one request and one token a second."""


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Machine:
    """A file of budgets on a machine whose clocks a test moves. `kill` forgets the process, `stop` ends it well."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.wall, self.boot = path, Clock(100.0), Clock(1e9), "boot 1"
        self.limits = self.start()

    def start(self) -> Limits:
        self.limits = Limits(self.path, self.clock, self.wall, self.boot)
        return self.limits

    def stop(self) -> None:
        self.limits.close()

    def kill(self) -> None:
        file = self.limits._file
        assert file is not None
        kept = self.path.read_bytes()
        self.limits.close()
        self.path.write_bytes(kept)

    def sleep(self, seconds: float) -> None:
        self.clock.now += seconds
        self.wall.now += seconds

    def reboot(self, seconds: float = 0.0) -> None:
        self.wall.now += seconds
        self.clock.now, self.boot = 5.0, self.boot + "+"

    def left(self, who: Caller = WHO) -> float:
        """Return how many tokens the caller could still use today."""
        self.limits.take(Caller(who.name, who.groups, {**who.attributes, "requests_per_minute": 1e9}))
        account = self.limits._accounts[who.name]
        return 86_400 - account.spent[2]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "prod.budgets")


def test_a_restart_is_no_new_budget(machine: Machine) -> None:
    machine.limits.admit(WHO, 50_000).settle(40_000)
    assert machine.left() == 46_400
    machine.stop()
    machine.sleep(400)
    machine.start()
    assert machine.left() == 46_800
    with pytest.raises(Refusal):
        machine.limits.admit(WHO, 46_801)
    machine.stop()


def test_a_kill_costs_the_caller_a_little_and_never_gains_it_anything(machine: Machine) -> None:
    machine.limits.admit(WHO, 10_000)
    true = machine.left()
    machine.kill()
    machine.start()
    assert true - SHARE * 86_400 <= machine.left() <= true


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 3000), st.integers(0, 9000), st.none() | st.integers(0, 9000), st.booleans()),
        max_size=25,
    )
)
def test_after_any_kill_no_more_is_left_than_before(steps: list[tuple[float, int, int | None, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder) / "b")
        for seconds, tokens, used, settled in steps:
            machine.sleep(seconds)
            try:
                admission = machine.limits.admit(WHO, tokens)
            except Refusal:
                continue
            if settled:
                admission.settle(used)
        before = machine.left()
        machine.kill()
        machine.start()
        after = machine.left()
        machine.stop()
        assert after <= before + 1e-6
        assert after >= before - (5 * SHARE * 86_400 + 9000)


def test_what_is_given_back_after_a_burst_is_written(machine: Machine) -> None:
    for admission in [machine.limits.admit(WHO, 4000) for _ in range(20)]:
        admission.settle(10)
    true = machine.left()
    machine.kill()
    machine.start()
    assert machine.left() >= true - 5 * SHARE * 86_400


def test_a_reboot_counts_by_the_wall_clock_and_one_set_back_gives_nothing(machine: Machine) -> None:
    machine.limits.admit(WHO, 40_000)
    machine.stop()
    machine.reboot(seconds=100)
    machine.start()
    assert machine.left() == pytest.approx(46_500)
    machine.stop()
    machine.reboot(seconds=-3600)
    machine.start()
    assert machine.left() == pytest.approx(46_500)
    machine.stop()


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_wall_clock_that_jumps_refills_nothing_in_a_run_nor_over_a_restart(machine: Machine, jump: float) -> None:
    machine.limits.admit(WHO, 40_000)
    machine.wall.now += jump
    assert machine.left() == 46_400
    machine.stop()
    machine.wall.now -= jump
    machine.start()
    assert machine.left() == 46_400
    machine.stop()


def test_a_day_later_nothing_is_owed(machine: Machine) -> None:
    machine.limits.admit(WHO, 80_000)
    machine.stop()
    machine.reboot(seconds=86_400)
    machine.start()
    assert machine.left() == 86_400
    machine.stop()


@pytest.mark.parametrize("damage", ["middle", "empty", "text", "version"])
def test_a_damaged_file_leaves_nobody_anything(machine: Machine, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("mia", "otto", "ivy"):
        machine.limits.admit(Caller(name, frozenset(), WHO.attributes), 100)
    machine.stop()
    data = machine.path.read_bytes()
    middle = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    machine.path.write_bytes({"middle": middle, "empty": b"", "text": b"hello\n", "version": b"00000000 [9]\n"}[damage])
    machine.start()
    assert "is damaged" in caplog.text
    for name in ("mia", "somebody else"):
        with pytest.raises(Refusal) as caught:
            machine.limits.admit(Caller(name, frozenset(), WHO.attributes), 1)
        assert caught.value.status == 429
    machine.sleep(30)
    machine.stop()
    machine.start()  # it is still known that everything had been used up
    assert machine.left(Caller("a third", frozenset(), WHO.attributes)) == pytest.approx(30)
    machine.stop()
    machine.sleep(90_000)
    machine.start()
    assert machine.left(Caller("a fourth", frozenset(), WHO.attributes)) == 86_400
    machine.stop()


def test_a_torn_last_line_was_never_admitted(machine: Machine) -> None:
    machine.limits.admit(WHO, 10_000)
    machine.kill()
    data = machine.path.read_bytes()
    machine.path.write_bytes(data + data.splitlines()[-1][:25])
    machine.start()
    assert machine.left() >= 86_400 - 10_000 - SHARE * 86_400
    machine.stop()


def test_what_cannot_be_written_is_not_used(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda file, data, place: whole(file, data[:20], place))
        for _ in range(3):
            with pytest.raises(Refusal) as caught:
                machine.limits.admit(WHO, 10_000)
            assert (caught.value.status, caught.value.retry_after) == (503, 5)
    machine.limits.admit(WHO, 10_000)
    assert machine.left() == 76_400
    machine.kill()
    machine.start()
    assert machine.left() <= 76_400
    machine.stop()


def test_the_file_is_written_afresh_before_it_grows_without_end(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "REWRITE_BYTES", 2000)
    machine.stop()
    machine.start()
    for _ in range(400):
        machine.sleep(10_000)
        machine.limits.admit(WHO, 9000)
    assert machine.path.stat().st_size < 3000
    machine.kill()
    machine.start()
    assert machine.left() <= 77_400
    machine.stop()


def test_two_processes_do_not_share_a_budget(machine: Machine) -> None:
    with pytest.raises(Locked):
        Limits(machine.path)
    machine.stop()
    Limits(machine.path).close()


SPENDER = """
import sys, pathlib
from policies.access.authorize import Caller
from policies.access.limits import Limits
limits = Limits(pathlib.Path(sys.argv[1]))
who = Caller("mia", frozenset(), {"tokens_per_day": 10_000_000})
while True:
    limits.admit(who, 700).settle(350)
    print(350, flush=True)
    sys.stdin.readline()
"""


def test_kill_9_of_a_real_process_gains_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b"
    command = [sys.executable, "-P", "-c", SPENDER, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n" * 3000)
        process.stdin.flush()
        spent = sum(int(process.stdout.readline()) for _ in range(3000))
        process.send_signal(signal.SIGKILL)
        spent += sum(int(line) for line in process.stdout)
    limits = Limits(path)
    who = Caller("mia", frozenset(), {"tokens_per_day": 10_000_000})
    with pytest.raises(Refusal):
        limits.admit(who, 10_000_000 - spent + 20_000)  # 20,000 are given back in three minutes
    limits.admit(who, 10_000_000 - spent - 4_000_000)
    limits.close()


def test_over_http_a_restarted_gateway_remembers_what_was_used(tmp_path: Path) -> None:
    path = tmp_path / "budgets"

    def callers(rows: list[dict[str, Any]]) -> Callers:
        rows[0]["attributes"] = {"tokens_per_day": 300, "requests_per_minute": 100}
        return Callers(lambda: rows)

    body = {"model": "stdlib", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 250}
    statuses, refused = [], None
    for number in range(2):
        limits = Limits(path)
        with gateway_running(tmp_path / f"run{number}", callers=callers, limits=limits) as running:
            headers = {"Authorization": f"Bearer {running.keys['mia']}"}
            for _ in range(12):
                refused = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers)
                statuses.append(refused.status_code)
                if refused.status_code == 429:
                    break
        limits.close()
    assert statuses == [200] * (len(statuses) - 2) + [429, 429]  # the second run lets nothing through
    assert len(statuses) > 2
    assert refused is not None
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "300 tokens a day" in refused.json()["error"]["message"]
    assert 60 < int(refused.headers["retry-after"]) < 86_400
