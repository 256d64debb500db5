from __future__ import annotations

from training.data.pairs import signature_pairs

METHOD = '''
    def grow(self, size: int = 3, *rest, **named) -> list:
        """Grow the thing until it is
        large.

        More words.
        """
'''


def test_pairs_are_first_paragraph_and_signature():
    broken = "        this is not python at all ("
    bare = "def f():\n    return 1\n"
    coroutine = 'async def g(a):\n    """Wait for all of it, then stop."""\n'
    assert list(signature_pairs([METHOD, broken, bare, coroutine])) == [
        ("Grow the thing until it is large.", "def grow(self, size: int=3, *rest, **named) -> list:"),
        ("Wait for all of it, then stop.", "async def g(a):"),
    ]
