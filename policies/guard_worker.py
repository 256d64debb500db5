"""The process that runs guardrails-ai validators: started as `python -P -m policies.guard_worker FD`, a line a message.

It has no network (an audit hook refuses connections and look-ups), no telemetry, its own empty home folder. It reads
its rules from the first line, answers `ready`, then validates one text a line until its socket closes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import socket
import sys
from typing import Any

from policies.stream import placeholder

_NETWORK = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"})


def main(fd: int) -> None:
    """Serve the parent at the other end of a socket until it closes it."""
    with socket.socket(fileno=fd) as parent, parent.makefile("rwb") as line:
        _seal()
        rules = json.loads(line.readline())["rules"]
        try:
            validators = [_build(rule) for rule in rules]
        except BaseException as error:  # noqa: BLE001 - the parent must hear of it, whatever a validator's code raised
            _send(line, {"failed": f"{type(error).__name__}: {error}"[:500]})
            return
        _send(line, {"ready": True})
        for message in line:
            request = json.loads(message)
            _send(line, {"id": request["id"], **validate(rules, validators, request["text"])})


def validate(rules: list[dict[str, Any]], validators: list[Any], text: str) -> dict[str, Any]:
    """Return what the rules say of a text, in order, each on what the one before left; the first block ends it."""
    from guardrails.validators import FailResult, PassResult

    outcome = {"ok": True, "rule": "", "action": "", "text": text, "reason": ""}
    for rule, validator in zip(rules, validators, strict=True):
        try:
            result = validator.validate(text, {})
        except Exception as error:  # noqa: BLE001 - a validator that breaks has not passed the text
            return _blocked(rule, f"the validator raised {type(error).__name__}")
        if isinstance(result, PassResult):
            continue
        if not isinstance(result, FailResult):
            return _blocked(rule, f"the validator returned {type(result).__name__}")
        if rule["action"] != "redact":
            return _blocked(rule, str(result.error_message))
        text = redact(text, result.error_spans, placeholder(rule["type"]))
        first = outcome["rule"] or rule["id"]
        outcome = {"ok": False, "rule": first, "action": "redact", "text": text, "reason": str(result.error_message)}
    return outcome


def redact(text: str, spans: Any, mark: str) -> str:
    """Return a text with a validator's error spans replaced; the whole of it when they are missing or make no sense."""
    try:
        places = sorted((int(span.start), int(span.end)) for span in spans or ())
    except (TypeError, ValueError, AttributeError):
        return mark
    if not places or any(not 0 <= start < end <= len(text) for start, end in places):
        return mark
    out, done = [], 0
    for start, end in places:
        if start >= done:
            out += [text[done:start], mark]
        done = max(done, end)
    return "".join([*out, text[done:]])


def _blocked(rule: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"ok": False, "rule": rule["id"], "action": "block", "text": "", "reason": reason}


def _seal() -> None:
    """Cut the process off before third-party code is imported: no network, no core dumps, no downloads on import."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            raise PermissionError(f"validators have no network ({event})")

    sys.addaudithook(refuse)
    sys.modules["nltk"] = None  # type: ignore[assignment]  # its import by guardrails would try to download `punkt`


def _build(rule: dict[str, Any]) -> Any:
    """Return the validator of a rule, from a module or from a file of the bundle."""
    place, _, name = rule["validator"].rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"bundle_validators_{abs(hash(place))}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"no module in `{place}`")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    kind = getattr(module, name)
    import guardrails.validators

    if not (isinstance(kind, type) and issubclass(kind, guardrails.validators.Validator)):
        raise TypeError(f"`{name}` is not a guardrails-ai validator class")
    return kind(on_fail="noop", **rule["kwargs"])


def _send(line: Any, message: dict[str, Any]) -> None:
    line.write(json.dumps(message).encode() + b"\n")
    line.flush()


if __name__ == "__main__":
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # what validators print may hold the text
    main(int(sys.argv[1]))
