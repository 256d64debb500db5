"""What `train run` prints."""

from governance.cli.train import _mask


def test_the_trained_span_is_marked_in_its_row():
    rows = [{"row": "<|user|>Ask.\n<|assistant|>def f():<|eos|>", "trained": "def f():<|eos|>"}]
    assert _mask(rows)[1].strip() == r"<|user|>Ask.\n<|assistant|>>>>def f():<|eos|><<<"
    assert _mask([]) == []
