"""Control tokens: text that the tokenizer would read as the template's own marks is not let in from a caller.

A text that holds one could end its turn and begin another, with a role of its choosing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from policies.wire.refusal import Refusal


class ControlTokens:
    """The control tokens of one tokenizer; `check` looks for them in encoded requests, `check_text` in a text."""

    __slots__ = ("_encoded", "_plain")

    def __init__(self, tokens: Iterable[str]) -> None:
        found = sorted({token for token in tokens if token}, key=lambda token: (-len(token), token))
        self._plain = re.compile("|".join(map(re.escape, found))) if found else None
        # The encoder writes every character in one way only, so a text holds a token if its encoding does.
        encoded = [re.escape(msgspec.json.encode(token)[1:-1]) for token in found]
        self._encoded = re.compile(b"|".join(encoded)) if encoded else None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._plain is not None

    def check(self, encoded: bytes) -> None:
        """Refuse (400) a request whose JSON, written by `msgspec.json.encode`, holds a control token in any string."""
        found = self._encoded.search(encoded) if self._encoded is not None else None
        if found is not None:
            raise _refusal(msgspec.json.decode(b'"%b"' % found[0]))

    def check_text(self, text: str) -> None:
        """Refuse (400) a text that holds a control token."""
        found = self._plain.search(text) if self._plain is not None else None
        if found is not None:
            raise _refusal(found[0])


def _refusal(token: str) -> Refusal:
    message = f"the request holds `{token}`, a control token of this model"
    return Refusal(400, "control_token", message, rules=("control-tokens",))
