"""Canonical JSON is RFC 8785, whichever of the two writers writes it; records keep their ids."""

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from registry.records import SAFE_INTEGER, ModelVersion, canonical, digest_of, plain

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-SAFE_INTEGER, SAFE_INTEGER) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
@example({"b": 1, "a": [True, None, -0, '\x7f\x1f\u2028"\\/\b'], "é": "é"})
@example({"\U0001f600": 1, "\ufb33": 2})
@example([SAFE_INTEGER, -SAFE_INTEGER, 1e21, 0.1, -0.0])
def test_canonical_json_is_rfc_8785(value):
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [SAFE_INTEGER + 1, float("nan"), {"a": [float("inf")]}, "\ud800", {1: 2}, b"x"])
def test_what_it_cannot_say_is_refused(value):
    with pytest.raises((rfc8785.CanonicalizationError, UnicodeError)):
        canonical(value)


def test_a_record_has_the_id_of_its_kind_and_content():
    record = ModelVersion("m", "sha256:m", None, None, ["d"], "Mistral", 7, {"w": "sha256:w"})
    assert record.id == digest_of({"kind": "version", "body": plain(record)})
    assert record.id != digest_of({"kind": "run", "body": plain(record)})
