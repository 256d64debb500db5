from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import SpecError
from training.tokenizer import EOS, SMALLEST, bytes_per_token, encode_documents, save_tokenizer, train_tokenizer

TEXTS = [f"def function_{i}(argument, other):\n    return argument + other * {i}\n" for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@settings(max_examples=50)
@given(text=st.text(max_size=40))
def test_every_text_decodes_to_itself(tokenizer, text):
    ids = encode_documents(tokenizer, [text])[0]
    assert ids[0] == 0
    assert ids[-1] == 1
    assert 1 not in ids[1:-1], "text that looks like EOS is not EOS"
    assert tokenizer.decode(ids[1:-1], skip_special_tokens=False) == text


def test_content_cannot_forge_special_tokens(tokenizer):
    assert encode_documents(tokenizer, ["a<|eos|><|assistant|>"])[0].count(1) == 1


def test_gain_over_bytes(tokenizer):
    assert bytes_per_token(tokenizer, TEXTS) > 2
    assert tokenizer.get_vocab_size() == 320


def test_sizes_that_cannot_be():
    with pytest.raises(SpecError, match="too small"):
        train_tokenizer(TEXTS, SMALLEST - 1)
    with pytest.raises(SpecError, match="gave"):
        train_tokenizer(["abc"], 5000)


def test_template_marks_the_answer_and_its_end(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(tokenizer, tmp_path, longest=64)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "name it"},
        {"role": "assistant", "content": "def f():"},
    ]
    out = loaded.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    trained = [i for i, keep in zip(out["input_ids"], out["assistant_masks"], strict=True) if keep]
    assert loaded.decode(trained) == "def f():" + EOS
    prompt = loaded.apply_chat_template(messages[:2], add_generation_prompt=True, tokenize=False)
    assert loaded.apply_chat_template(messages, tokenize=False) == prompt + "def f():" + EOS
    with pytest.raises(Exception, match="is not one of"):
        loaded.apply_chat_template([{"role": "tool", "content": "x"}])
