"""Our own byte-level BPE tokenizer: no unknown tokens, a chat template with generation marks, its gain measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from registry.errors import SpecError

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (BOS, EOS, PAD, *ROLES)
SMALLEST = 256 + len(SPECIAL)

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}{{- message['content'] -}}{{- eos_token -}}{%- endgeneration -%}
{%- elif message['role'] in ['system', 'user'] -%}
{{- '<|' + message['role'] + '|>' + message['content'] -}}
{%- else -%}
{{- raise_exception('role `' + message['role'] + '` is not one of system, user, assistant') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
"""What the model is trained on in a conversation is what stands between the generation marks, EOS included."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a `tokenizers.Tokenizer` of exactly `vocabulary` tokens learned from texts.

    All 256 bytes are tokens, so every text has an encoding and decodes to itself.

    Raises:
        SpecError: `vocabulary` is too small for the bytes and special tokens, or the texts are too few to fill it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < SMALLEST:
        raise SpecError(
            f"a vocabulary of {vocabulary} is too small", field="model.vocab", hint=f"at least {SMALLEST}: all bytes"
        )
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise SpecError(
            f"the text gave {tokenizer.get_vocab_size()} tokens, not {vocabulary}",
            field="model.vocab",
            hint="choose a smaller vocabulary or add text",
        )
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, *, longest: int) -> None:
    """Write `tokenizer.json`, its configuration and `chat_template.jinja` as transformers and vLLM read them."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
        model_max_length=longest,
        padding_side="right",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def load_tokenizer(folder: Path) -> Any:
    """Return the `tokenizers.Tokenizer` of a model folder."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def encode_documents(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text between BOS and EOS, as documents are trained on.

    Text that looks like a special token is encoded as text: content cannot forge a role.
    """
    from tokenizers import Tokenizer

    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    return [[bos, *encoding.ids, eos] for encoding in plain.encode_batch_fast(list(texts), add_special_tokens=False)]


def bytes_per_token(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return UTF-8 bytes per token over texts: the gain over raw bytes, which have 1.0."""
    size = sum(len(text.encode()) for text in texts)
    count = sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
    return size / max(count, 1)
