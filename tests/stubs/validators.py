"""guardrails-ai validators that behave badly: what the guard worker must survive."""

import os
import socket
import sys
import time
from typing import Any

from guardrails.validators import ErrorSpan, FailResult, PassResult, ValidationResult, Validator, register_validator


def _raise() -> None:
    raise RuntimeError("secret text in a message")


DOES = {
    "raise": _raise,
    "hang": lambda: time.sleep(60),
    "exit": lambda: os._exit(3),
    "network": lambda: socket.create_connection(("127.0.0.1", 9)),
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "print": lambda: print('{"id": 1, "ok": true}'),
}
FAILS = {
    "fail": FailResult(error_message="no"),
    "spans": FailResult(error_message="one", error_spans=[ErrorSpan(start=0, end=2, reason="")]),
}


@register_validator(name="stub/odd", data_type="string")
class Odd(Validator):
    """Does what the text says."""

    def _validate(self, value: Any, metadata: dict[str, Any]) -> ValidationResult | None:
        DOES.get(value, lambda: None)()
        if value == "nothing":
            return None
        if value == "nltk" and sys.modules.get("nltk"):
            return FailResult(error_message="nltk is loaded")
        if value == "metrics" and not self._disable_telemetry:
            return FailResult(error_message="metrics are on")
        return FAILS.get(value, PassResult())


class NotAValidator:
    """Has the right name in the wrong place."""
