"""Callers: only the right secret of the right id opens the door, names cannot be taken, and revocation arrives."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.access.callers import KEPT_SECONDS, Callers, create_key, hash_secret
from policies.wire.refusal import Refusal


def _rows(*names: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    rows, keys = [], {}
    for name in names:
        keys[name], key_id, key_hash = create_key()
        rows.append({"name": name, "groups": ["g"], "attributes": {"a": 1}, "key_id": key_id, "key_hash": key_hash})
    return rows, keys


def test_a_key_identifies_its_caller() -> None:
    rows, keys = _rows("mia", "otto")
    callers = Callers(lambda: rows)
    for name, key in keys.items():
        found = callers.identify(f"Bearer {key}".encode())
        assert (found.name, found.groups, found.attributes) == (name, frozenset({"g"}), {"a": 1})
        assert callers.identify(f"bearer  {key} ".encode()).name == name
    assert len(callers) == 2


def test_keys_and_hashes_do_not_repeat_and_hide_the_secret() -> None:
    made = [create_key() for _ in range(50)]
    assert len({key for key, _, _ in made}) == len({key_hash for _, _, key_hash in made}) == 50
    for key, key_id, key_hash in made:
        _, found_id, secret = key.split("_", 2)
        assert (found_id, hash_secret(key_id, secret)) == (key_id, key_hash)
        assert len(secret) >= 43
        assert secret not in key_hash


ROWS, KEYS = _rows("mia")
CALLERS = Callers(lambda: ROWS)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: b"Bearer hk_" + text.encode())))
def test_nothing_else_gets_in(header: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        CALLERS.identify(header)
    assert caught.value.status == 401


@given(st.integers(min_value=0), st.characters(codec="ascii"))
def test_a_changed_key_does_not_get_in(place: int, char: str) -> None:
    key = KEYS["mia"]
    place %= len(key)
    changed = key[:place] + char + key[place + 1 :]
    if changed.strip() == key:
        return
    with pytest.raises(Refusal):
        CALLERS.identify(b"Bearer " + changed.encode())


def test_reload_sees_new_and_revoked_callers_and_survives_a_failing_source() -> None:
    rows, keys = _rows("mia")
    more, new_keys = _rows("otto")
    callers = Callers(lambda: list(rows))
    rows[:] = more
    assert callers.identify(f"Bearer {keys['mia']}".encode()).name == "mia"
    assert callers.reload()
    assert callers.identify(f"Bearer {new_keys['otto']}".encode()).name == "otto"
    with pytest.raises(Refusal):
        callers.identify(f"Bearer {keys['mia']}".encode())
    rows[:] = [{"name": "broken"}]
    assert not callers.reload()
    assert callers.identify(f"Bearer {new_keys['otto']}".encode()).name == "otto"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_last_table_counts_for_a_minute_and_then_nobody_is_known() -> None:
    rows, keys = _rows("mia")
    clock, locked = Clock(), [False]

    def source() -> list[dict[str, Any]]:
        if locked[0]:
            raise OSError("the store is locked")
        return list(rows)

    callers = Callers(source, clock=clock)
    clock.now += 1e6  # nobody asked for a new table: the one that is there counts
    assert callers.identify(f"Bearer {keys['mia']}".encode())
    locked[0] = True
    rows.clear()
    assert not callers.reload()
    clock.now += KEPT_SECONDS
    assert not callers.reload()
    assert callers.identify(f"Bearer {keys['mia']}".encode())
    clock.now += 1
    with pytest.raises(Refusal) as caught:
        callers.identify(f"Bearer {keys['mia']}".encode())
    assert (caught.value.status, caught.value.code) == (503, "identity_unavailable")
    locked[0] = False
    assert callers.reload()
    with pytest.raises(Refusal) as caught:
        callers.identify(f"Bearer {keys['mia']}".encode())
    assert caught.value.status == 401


def test_a_reload_that_hangs_counts_as_one_that_failed() -> None:
    rows, keys = _rows("mia")
    clock, go, inside = Clock(), threading.Event(), threading.Event()
    first = [True]

    def source() -> list[dict[str, Any]]:
        if not first.pop(0):
            inside.set()
            go.wait(10)
        first.append(False)
        return rows

    callers = Callers(source, clock=clock)
    thread = threading.Thread(target=callers.reload)
    thread.start()
    assert inside.wait(10)
    clock.now += KEPT_SECONDS + 1
    with pytest.raises(Refusal) as caught:
        callers.identify(f"Bearer {keys['mia']}".encode())
    assert caught.value.status == 503
    go.set()
    thread.join(10)
    assert callers.identify(f"Bearer {keys['mia']}".encode())


def test_callers_that_did_not_change_stay_the_same_objects() -> None:
    rows, keys = _rows("mia")
    callers = Callers(lambda: [dict(row) for row in rows])
    before = callers.identify(f"Bearer {keys['mia']}".encode())
    assert callers.reload()
    assert callers.identify(f"Bearer {keys['mia']}".encode()) is before


@pytest.mark.parametrize("name", ["token:corp:ada", "cert:cn:ada"])
def test_no_key_takes_the_name_of_a_token_or_certificate(name: str) -> None:
    rows, keys = _rows(name, "mia")
    callers = Callers(lambda: rows)
    assert len(callers) == 1
    with pytest.raises(Refusal):
        callers.identify(f"Bearer {keys[name]}".encode())


def test_a_key_that_is_bound_to_a_certificate_is_nothing_without_it() -> None:
    rows, keys = _rows("mia")
    rows[0]["certificate"] = "thumbprint"
    with pytest.raises(Refusal) as caught:
        Callers(lambda: rows).identify(f"Bearer {keys['mia']}".encode())
    assert caught.value.status == 401
