"""Withdrawals: a person's words are found however they are written, and the journal cannot be searched for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import withdrawals
from registry.errors import SpecError
from registry.withdrawals import holds_words, words_of
from registry.workspace import Workspace


@pytest.mark.parametrize(
    "text", ["by Jane Doe.", "JANE\n  doe", "jane-doe@example.org", "\uff2a\uff41\uff4e\uff45 Doe"]
)
def test_the_same_words_are_found_however_they_are_written(text):
    assert holds_words(text, words_of("Jane Doe"))


@pytest.mark.parametrize("text", ["jane does", "doe jane", "jane m doe", "janedoe", ""])
def test_other_words_are_not(text):
    assert not holds_words(text, words_of("Jane Doe"))


@given(
    before=st.text(max_size=20), name=st.text(alphabet="abcXYZ 1", min_size=1, max_size=12), after=st.text(max_size=20)
)
def test_a_text_holds_what_was_put_into_it(before, name, after):
    wanted = words_of(name)
    assert holds_words(f"{before} {name} {after}", wanted) or not wanted


def test_two_workspaces_mark_a_person_differently(tmp_path):
    one, two = Workspace.create(tmp_path / "one"), Workspace.create(tmp_path / "two")
    assert withdrawals.person_mark(one, "Jane Doe") == withdrawals.person_mark(one, "JANE  doe")
    assert withdrawals.person_mark(one, "Jane Doe")[0] != withdrawals.person_mark(two, "Jane Doe")[0]
    assert withdrawals.person_mark(one, "Jane Doe")[1] == 2
    with pytest.raises(SpecError):
        withdrawals.person_mark(one, "...")
