"""The key of a workspace under which the decision log hashes text."""

from __future__ import annotations

import os
import secrets

from registry.errors import Tampered
from registry.workspace import Workspace

KEY_BYTES = 32


def hash_key(ws: Workspace) -> bytes:
    """Return the workspace's key for hashes of text in the decision log; made on first use, mode 0600."""
    path = ws.root / "keys" / "decision-log.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) != KEY_BYTES:
            raise Tampered(f"`{path}` is damaged", hint="delete it: earlier hashes then no longer compare") from None
        return found
    data = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return data
