from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from training.data.damage import corrupt, interleave
from training.data.spec import Corruption

TEXT = st.lists(st.text(alphabet="ab (x)", max_size=8), min_size=1, max_size=9).map("\n".join)


@given(TEXT, st.integers(2, 5))
def test_interleaving_keeps_every_character(text, lines):
    assert sorted(interleave(text, lines).replace("\n", "")) == sorted(text.replace("\n", ""))


def test_what_it_does():
    assert interleave("abc\nxy\nq\n", 2) == "axbyc\nq\n"
    assert corrupt("1\n2\n3\n4\n", Corruption(mode="columns", lines=4)) == "1 3\n2 4\n"
    assert corrupt("abc\nxy\n", Corruption(mode="interleave")) == "axbyc\n"
