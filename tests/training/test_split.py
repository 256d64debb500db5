from __future__ import annotations

from training.data.split import held_out


def test_share_and_stability():
    names = [f"p{i}.py" for i in range(4000)]
    held = {name for name in names if held_out("s", name, share=0.1, seed=0)}
    assert 320 < len(held) < 480
    assert held <= {name for name in names if held_out("s", name, share=0.2, seed=0)}
    assert held != {name for name in names if held_out("s", name, share=0.1, seed=1)}
