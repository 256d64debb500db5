"""API keys: only the right secret of the right id opens the door."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.callers import Callers, create_key, hash_secret
from policies.refusal import Refusal


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
