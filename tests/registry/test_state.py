"""The facts in memory are what the projection says, in every process, however they got there."""

import multiprocessing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.artifacts import Artifacts
from registry.errors import Tampered
from registry.journal import Journal
from registry.store import Store


def make(root):
    (root / "journal").mkdir(exist_ok=True)
    (root / "store").mkdir(exist_ok=True)
    return Store(root / "store", Journal(root / "journal", "w"), Artifacts(root / "objects"))


def asset(name, number, kind="version"):
    body = {"kind": kind, "name": name, "number": number, "body": {}, "parents": []}
    return ("asset.registered", f"sha256:{kind}-{name}-{number}", body, "me")


def move(alias, version, actor="operator"):
    body = {
        "certificate": "sha256:c",
        "candidate": "sha256:d",
        "version": version,
        "reason": "r",
        "release": "sha256:r",
    }
    return ("alias.moved", alias, body, actor)


def said(store):
    """Return what SQL says about what the state says."""
    assets = store.query("SELECT id, kind, name, number FROM asset ORDER BY seq")
    aliases = store.query("SELECT alias, version FROM alias_current ORDER BY alias")
    return (
        {row["id"]: (row["kind"], row["name"], row["number"]) for row in assets},
        {row["alias"]: row["version"] for row in aliases},
        store.query("SELECT max(ts) AS ts FROM event")[0]["ts"] or "",
    )


def held(store):
    with store.lock():
        state = store.state()
        aliases = {alias: body["version"] for alias, body in state.aliases.items()}
        assert sum(state.counts.values()) == len(state.assets)
        return dict(state.assets), aliases, state.newest


def test_an_empty_store_has_an_empty_state(tmp_path):
    store = make(tmp_path)
    assert held(store) == ({}, {}, "")
    assert store.current is None, "no DuckDB file is made for it"


def test_it_knows_what_was_just_recorded_without_a_projection(tmp_path):
    store = make(tmp_path)
    store.journal.append([asset("a", 1), asset("a", 2), asset("b", 1), move("prod", "v1"), move("prod", "v2", "eve")])
    with store.lock():
        state = store.state()
    assert state.counts["version", "a"] == 2
    assert state.assets["sha256:version-b-1"] == ("version", "b", 1)
    assert state.aliases["prod"]["version"] == "v2"
    assert state.aliases["prod"]["actor"] == "eve"
    assert state.aliases["prod"]["ts"] == state.newest
    assert store.current is None
    assert held(store) == said(store)


STEPS = st.lists(st.sampled_from(["asset", "move", "other", "sync", "order", "state", "restart"]), max_size=14)


@settings(max_examples=12)
@given(steps=STEPS)
def test_the_state_is_what_the_projection_says(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("state")
    stores = [make(root), make(root)]
    for number, step in enumerate(steps):
        store = stores[number % 2]
        if step == "asset":
            store.journal.append([asset("a", number)])
        elif step == "move":
            store.journal.append([move("prod", f"v{number}")])
        elif step == "other":
            store.journal.append([("count", "s", {"n": number}, "me")])
        elif step == "restart":
            store.journal.close()
            stores[number % 2] = make(root)
        else:
            getattr(store, step)()
    assert held(stores[0]) == held(stores[1]) == said(stores[0]) == held(make(root))
    for store in stores:
        store.journal.close()


def take_numbers(root, barrier, count):
    store = make(root)
    barrier.wait()
    for _ in range(count):
        with store.lock():
            number = store.state().counts["version", "same"] + 1
            store.journal.append([asset("same", number)])


def test_processes_that_compare_and_set_never_take_the_same_number(tmp_path):
    make(tmp_path)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=take_numbers, args=(tmp_path, barrier, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    numbers = make(tmp_path).query("SELECT number FROM asset ORDER BY seq")
    assert [row["number"] for row in numbers] == list(range(1, 61))


def test_a_state_that_met_tampering_is_not_used_again(tmp_path):
    store = make(tmp_path)
    store.journal.append([asset("a", 1)])
    held(store)
    order = store.journal.root / "order.log"
    whole = order.read_bytes()
    store.journal.append([asset("a", 2)])
    order.write_bytes(whole + b"not a batch\n")
    with pytest.raises(Tampered, match=r"`order.log` is damaged"):
        held(store)
    order.write_bytes(whole)
    assert held(store) == said(store)
