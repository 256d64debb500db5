"""Compiled patterns kept between starts, each with a keyed hash: what was not compiled here is compiled again."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

TAG_BYTES = 32


@dataclass(frozen=True, slots=True)
class CompiledCache:
    """Files `<key>.hs` in a private folder: an HMAC-SHA256 by `secret` over key and content, then the content.

    A file that somebody without the secret put there would switch rules off: it is not read.
    """

    folder: Path
    secret: bytes

    def load(self, key: str) -> bytes | None:
        """Return what is kept under a key; None where there is nothing, or nothing that can be trusted."""
        path = self.folder / f"{key}.hs"
        try:
            state = path.stat()
            if state.st_uid != os.getuid() or state.st_mode & 0o022:
                return None
            kept = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("compiled rules in %s cannot be read (%s): compiling again", path, error)
            return None
        tag, data = kept[:TAG_BYTES], kept[TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(key, data)):
            logger.warning("compiled rules in %s are not what was compiled here: compiling again", path)
            return None
        return data

    def save(self, key: str, data: bytes) -> None:
        """Keep data under a key, readable by this user only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self.folder / f".{key}.{os.getpid()}"
        temporary.write_bytes(self._tag(key, data) + data)
        temporary.chmod(0o600)
        temporary.replace(self.folder / f"{key}.hs")

    def _tag(self, key: str, data: bytes) -> bytes:
        return hmac.new(self.secret, b"compiled patterns\0" + key.encode() + b"\0" + data, hashlib.sha256).digest()
