"""Aliases: moved by compare-and-set, one winner of every race, the pointer file mended after a crash."""

import multiprocessing

import orjson
import pytest

from registry import aliases
from registry.errors import Locked, NotFound, Refused, SpecError, Tampered
from registry.records import Certificate, Release, plain
from registry.workspace import Workspace


@pytest.fixture
def ws(tmp_path):
    made = Workspace.create(tmp_path / "ws")
    yield made
    made.close()


def certificates(ws, count=2):
    """Register certificates; what they say is of no matter here."""
    return [ws.register(Certificate("c", f"v{n}", "d", "2099", {}), actor="operator").id for n in range(count)]


def release(certificate, reason="because", alias="prod"):
    return Release(alias, certificate, "c", "v", "2026-01-01T00:00:00+00:00", reason)


def move(ws, found, expected):
    aliases.move(ws, found, expected, "operator")
    return aliases.head(ws, found.alias).id


def test_a_move_is_an_event_and_a_pointer_file(ws):
    first, second = certificates(ws)
    assert aliases.head(ws, "prod") is None
    seen = move(ws, release(first), "")
    assert ws.release("prod") == release(first)
    move(ws, release(second, "better"), seen)
    found = aliases.head(ws, "prod")
    assert (found.release, found.actor) == (release(second, "better"), "operator")
    assert ws.release("prod").id == found.id
    history = ws.store.query("SELECT reason, actor FROM alias_history ORDER BY seq")
    assert [(row["reason"], row["actor"]) for row in history] == [("because", "operator"), ("better", "operator")]
    assert list(aliases.heads(ws)) == ["prod"]


def test_the_loser_is_told_who_moved_it_when_and_to_what(ws):
    first, second = certificates(ws)
    move(ws, release(first), "")
    before = ws.pointer("prod").read_bytes()
    size = ws.store.size()
    for expected in ("", release(second).id):
        with pytest.raises(Refused, match=rf"moved by `operator` on 20.* to certificate {first[7:19]} \(because\)"):
            aliases.move(ws, release(second), expected, "operator")
    assert (ws.pointer("prod").read_bytes(), ws.store.size()) == (before, size)


def test_an_alias_never_dangles(ws):
    with pytest.raises(NotFound, match="no certificate"):
        aliases.move(ws, release("sha256:" + "0" * 64), "", "operator")
    with pytest.raises(SpecError, match="not an alias"):
        aliases.move(ws, release(certificates(ws)[0], alias="../prod"), "", "operator")
    assert aliases.heads(ws) == {}
    assert list((ws.root / "releases").iterdir()) == []


def test_only_an_operators_signature_moves(ws):
    with pytest.raises(NotFound, match="must be signed"):
        aliases.move(ws, release(certificates(ws)[0]), "", "somebody")
    assert aliases.head(ws, "prod") is None


def test_a_crash_between_event_and_pointer_is_mended(ws, monkeypatch):
    first, second = certificates(ws)
    seen = move(ws, release(first), "")

    def crash(self, found):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "point", crash)
        with pytest.raises(KeyboardInterrupt):
            aliases.move(ws, release(second), seen, "operator")
    assert ws.release("prod").certificate == first
    assert aliases.head(ws, "prod").release.certificate == second
    assert aliases.settle(ws) == ["prod"]
    assert ws.release("prod").certificate == second
    assert aliases.settle(ws) == []


def test_a_pointer_that_never_was_is_left_to_be_refused(ws):
    first, second = certificates(ws)
    move(ws, release(first), "")
    foreign = orjson.dumps(plain(release(second)))
    ws.pointer("prod").write_bytes(foreign)
    assert aliases.settle(ws) == []
    assert ws.pointer("prod").read_bytes() == foreign


def test_a_move_that_does_not_name_its_release_is_found(ws):
    first, second = certificates(ws)
    move(ws, release(first), "")
    body = {"certificate": second, "candidate": "c", "version": "v", "reason": "x", "release": "sha256:r",
            "pointer": plain(release(second))}  # fmt: skip
    ws.record("alias.moved", "prod", body, actor="operator")
    with pytest.raises(Tampered, match="not of the release it names"):
        aliases.head(ws, "prod")


def test_a_pointer_that_cannot_be_written_is_mended_later(ws, monkeypatch):
    """A full disk after the event: the move stands in the journal, and the pointer follows when there is room."""
    first, second = certificates(ws)
    seen = move(ws, release(first), "")

    def full(self, found):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "point", full)
        with pytest.raises(OSError, match="No space left"):
            aliases.move(ws, release(second), seen, "operator")
    assert aliases.settle(ws) == ["prod"]
    assert ws.release("prod").certificate == second


def test_a_held_store_moves_nothing(ws):
    first = certificates(ws, 1)[0]
    other = Workspace.open(ws.root, {"lock_wait_s": "0.1"})
    with ws.store.lock(), pytest.raises(Locked):
        aliases.move(other, release(first), "", "operator")
    assert aliases.head(ws, "prod") is None


def racer(root, who, certificate, rounds, barrier, results):
    """Move one alias in every round from what was seen before the start signal."""
    ws = Workspace.open(root)
    for number in range(rounds):
        now = aliases.head(ws, "prod")
        barrier.wait(60)
        try:
            aliases.move(ws, release(certificate, f"{who} {number}"), now.id if now else "", "operator")
            results.put((number, who, "won"))
        except Refused as error:
            results.put((number, who, error.message))
        barrier.wait(60)
    ws.close()


def test_of_two_processes_exactly_one_wins_each_time(ws):
    rounds, spawn = 100, multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    pairs = list(zip(("left", "right"), certificates(ws), strict=True))
    racers = [
        spawn.Process(target=racer, args=(ws.root, who, certificate, rounds, barrier, results))
        for who, certificate in pairs
    ]
    for process in racers:
        process.start()
    outcomes = [results.get(timeout=60) for _ in range(2 * rounds)]
    for process in racers:
        process.join(60)
        assert process.exitcode == 0
    for number in range(rounds):
        found = {who: said for at, who, said in outcomes if at == number}
        winner = next(who for who, said in found.items() if said == "won")
        loser = found["right" if winner == "left" else "left"]
        assert "moved by `operator`" in loser
        assert f"({winner} {number})" in loser
    history = [row["reason"] for row in ws.store.query("SELECT reason FROM alias_history ORDER BY seq")]
    assert [reason.split()[1] for reason in history] == [str(number) for number in range(rounds)]
    assert ws.release("prod").reason == history[-1]
