"""POST /v1/embeddings: texts in, vectors out, and nothing else out. Offered where the engine has them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, final

import msgspec
from msgspec import Meta, Struct

from policies.wire.failures import UpstreamBroken
from policies.wire.request_types import Short, Wire
from policies.wire.surfaces import Usage

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@final
class EmbeddingsRequest(Wire):
    """POST /v1/embeddings; inputs are text, never token ids."""

    model: str
    input: str | Annotated[list[str], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    user: Short | None = None


class Embedding(Struct):
    """One vector: numbers, or base64 of little-endian 32-bit floats."""

    embedding: list[float] | str
    index: int = 0
    object: str = "embedding"


class TokenCount(Struct):
    """What the inputs took."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class Embeddings(Struct):
    """The vectors, in the order of the inputs."""

    data: list[Embedding]
    model: str
    usage: TokenCount
    object: str = "list"


class _EngineEmbedding(Struct):
    embedding: list[float] | str
    index: int = 0


class _EngineEmbeddings(Struct):
    data: list[_EngineEmbedding]
    usage: TokenCount | None = None


_decoder = msgspec.json.Decoder(_EngineEmbeddings)


def inputs(request: EmbeddingsRequest) -> list[str]:
    """Return the texts of a request."""
    return [request.input] if isinstance(request.input, str) else request.input


def encode(request: EmbeddingsRequest, served_name: str, salt: str) -> bytes:
    """Return the body for the engine; `salt` (hex) separates the callers' prefix caches."""
    request.model, request.user = served_name, None
    return b'%b,"cache_salt":"%b"}' % (msgspec.json.encode(request)[:-1], salt.encode("ascii"))


def read(data: bytes, model: str, expected: int) -> tuple[bytes, Usage]:
    """Return the caller's answer and the token counts.

    Raises:
        UpstreamBroken: the answer is no list of `expected` vectors, or a vector holds anything but numbers.
    """
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamBroken(f"the engine sent no embeddings: {error}") from None
    if len(found.data) != expected or not all(_is_vector(item.embedding) for item in found.data):
        raise UpstreamBroken("the engine sent no vector for each input")
    count = found.usage or TokenCount()
    vectors = [Embedding(item.embedding, item.index) for item in found.data]
    usage = Usage(count.prompt_tokens, 0, count.prompt_tokens)
    return msgspec.json.encode(Embeddings(vectors, model, TokenCount(count.prompt_tokens, count.prompt_tokens))), usage


def _is_vector(value: list[float] | str) -> bool:
    """Say whether a value is numbers: base64 of whole 32-bit floats counts, any other text does not."""
    if not isinstance(value, str):
        return bool(value)
    if len(value) % 4 or not _BASE64.fullmatch(value):
        return False
    size = len(value) // 4 * 3 - value.count("=")
    return size > 0 and size % 4 == 0
