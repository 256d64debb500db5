from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.python_text import decode, docstrings, paragraphs, parse, sections

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize(
    "name", ["argparse.py", "json/decoder.py", "textwrap.py", "this.py", "opcode.py", "_pydecimal.py"]
)
@pytest.mark.parametrize("limit", [200, 2000])
def test_sections_joined_are_the_file(name, limit):
    text = decode((STDLIB / name).read_bytes())
    cut = sections(text, parse(text), limit)
    assert "".join(cut) == text
    longest_line = max(map(len, text.splitlines(keepends=True)))
    assert max(map(len, cut)) <= limit + longest_line


FUNCTION = "# about f\n@d\ndef f():\n    return 1\n"
CLASS = ["\n\nclass C:\n    def g(self):\n        return 2\n", "\n    def h(self): pass\n"]


def test_sections_begin_before_comments_and_decorators_and_at_members():
    text = "import a\n\n" + FUNCTION + "".join(CLASS)
    assert sections(text, parse(text), 60) == ["import a\n\n" + FUNCTION, *CLASS]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "x = 1; y = 2", "x = '''a\x0cb\n'''\ny = 2\n", "\n\n\n"])
def test_odd_files(text):
    assert "".join(sections(text, parse(text), 10)) == text


def test_docstrings_in_order():
    text = '"""A."""\nclass C:\n    "B."\n    def f(self):\n        """C.\n\n        more\n        """\n'
    tree = parse(text + 'async def g():\n    "D."\n')
    assert docstrings(tree) == ["A.\n", "B.\n", "C.\n\nmore\n", "D.\n"]


@given(st.lists(st.sampled_from(["words here\n", "\n", "a much longer line of prose than the others\n"]), max_size=40))
def test_paragraphs_lose_no_word(lines):
    text = "".join(lines)
    pieces = paragraphs(text, 100)
    assert "".join(pieces).split() == text.split()
    assert all(len(piece) <= 100 for piece in pieces)
