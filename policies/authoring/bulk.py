"""Many texts at once: JSON lines in, JSON lines out, as fast as one core reads them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from policies.enforcement.normalize import clean
from registry.errors import SpecError

if TYPE_CHECKING:
    from policies.enforcement.scan import CompiledBundle

HINT = '{"id": "a", "text": "..."}'


class Record(msgspec.Struct):
    """One line of input; more fields are ignored. `id` is any JSON value and comes back as it was written."""

    id: msgspec.Raw
    text: str


def scan_lines(
    compiled: CompiledBundle, lines: Iterable[bytes | memoryview], side: str, *, file: str | None = None
) -> Iterator[bytes]:
    """Yield a line `{"id", "action", "spans"}` for each line `{"id", "text"}`, without the line feed.

    Offsets are code points of the text as it was given. Rules that need the guard worker are not run. What
    `scan_texts` does for records, without making Python objects of a record that has no candidate.

    Raises:
        SpecError: a line is not such a record; names `file` and the line.
    """
    from policies.authoring.texts import action_of, side_check

    examine, part = side_check(compiled, side)
    simple = not part.whole
    look, decode, encode = part.look, msgspec.json.Decoder(Record).decode, msgspec.json.Encoder().encode
    for number, line in enumerate(lines, 1):
        try:
            record = decode(line)
        except msgspec.DecodeError as error:
            raise SpecError(
                f"a record needs `id` and a string `text`: {error}", file=file, line=number, hint=HINT
            ) from None
        text, name = record.text, bytes(record.id)
        del record  # its `id` is a view of the line, which is taken back before the next one
        if simple and look(clean(text)) is None:
            yield b'{"id": ' + name + b', "action": "pass", "spans": []}'
            continue
        piece = examine(text)
        spans = [{"start": hit.start, "end": hit.end, "type": hit.type, "rule": hit.rule} for hit in piece.hits]
        yield b'{"id": %b, "action": %b, "spans": %b}' % (name, encode(action_of(piece)), encode(spans))


@contextmanager
def lines_of(path: Path) -> Iterator[Iterator[memoryview]]:
    """Map a file into memory and give its lines, without line feeds and without copying them.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield iter(())
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                yield _split(data, view)
            finally:
                view.release()


def _split(data: mmap.mmap, view: memoryview) -> Iterator[memoryview]:
    place, size = 0, len(data)
    while place < size:
        stop = data.find(b"\n", place)
        stop = size if stop < 0 else stop
        with view[place:stop] as line:
            yield line
        place = stop + 1
