"""The process that runs rules' code: started as `python -P -m policies.guarding.guard_worker FD`, a line a message.

It has no network and starts no processes (an audit hook refuses them), no telemetry, its own empty home folder, bounded
memory and CPU. It reads its rules from the first line, answers `ready`, then one question a line until its socket
closes. guardrails-ai, seconds of imports, is loaded only where a rule needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

_NETWORK = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"})
_PROCESSES = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn", "os.spawn"}
)

Spans = list[tuple[int, int]]
Verdict = tuple[bool, str, Spans | None]
"""(passed, reason, spans); None where the code names no spans."""


def main(fd: int) -> None:
    """Serve the parent at the other end of a socket until it closes it."""
    with socket.socket(fileno=fd) as parent, parent.makefile("rwb") as line:
        refused = _seal()
        setup = json.loads(line.readline())
        _bound_memory(setup["memory_mb"])
        try:
            judges = [_build(rule) for rule in setup["rules"]]
        except BaseException as error:  # noqa: BLE001 - the parent must hear of it, whatever a rule's code raised
            _send(line, {"failed": f"{type(error).__name__}: {error}"[:500]})
            return
        refused |= _PROCESSES  # libraries look around themselves with processes while they are imported
        _send(line, {"ready": True})
        for message in line:
            request = json.loads(message)
            number = request["rule"]
            _bound_cpu(request["cpu_s"])
            _send(line, {"id": request["id"], **judge(setup["rules"][number], judges[number], request["text"])})


def judge(rule: dict[str, Any], decide: Callable[[str], Verdict], text: str) -> dict[str, Any]:
    """Return what a rule says of a text: `ok`, and otherwise its action, what is left of the text, and why."""
    try:
        passed, reason, spans = decide(text)
    except Exception as error:  # noqa: BLE001 - code that breaks has not passed the text
        return _blocked(f"the rule's code raised {type(error).__name__}")
    if passed:
        return {"ok": True, "action": "", "text": text, "reason": ""}
    if rule["action"] == "block":
        return _blocked(reason)
    mark = rule["mark"] if rule["action"] == "redact" else ""
    return {"ok": False, "action": rule["action"], "text": replace(text, spans, mark), "reason": reason}


def replace(text: str, spans: Spans | None, mark: str) -> str:
    """Return a text with spans replaced, by `mark` or (where it is empty) by one star a character.

    The whole text is replaced when there are no spans, or one makes no sense.
    """
    places = sorted(spans or ())
    if not places or any(not 0 <= start < end <= len(text) for start, end in places):
        places = [(0, len(text))]
    merged: Spans = []
    for start, end in places:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    out, done = [], 0
    for start, end in merged:
        out += [text[done:start], mark or "*" * (end - start)]
        done = end
    return "".join([*out, text[done:]])


def _blocked(reason: str) -> dict[str, Any]:
    return {"ok": False, "action": "block", "text": "", "reason": reason}


def _seal() -> set[str]:
    """Cut the process off before third-party code is imported; returns the set of refused events, to add to."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    refused = set(_NETWORK)

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in refused:
            raise PermissionError(f"the code of rules has no network and starts no processes ({event})")

    sys.addaudithook(refuse)
    sys.modules["nltk"] = None  # type: ignore[assignment]  # its import by guardrails would try to download `punkt`
    return refused


def _bound_memory(megabytes: int) -> None:
    if megabytes:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))


def _bound_cpu(seconds: float) -> None:
    """Let the kernel end this process when it burns more than a deadline on every core: its parent may be gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = used.ru_utime + used.ru_stime + seconds * (os.cpu_count() or 1) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(allowed), resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _build(rule: dict[str, Any]) -> Callable[[str], Verdict]:
    """Return a rule's code, from a module or from a file of the bundle, as a function of the text."""
    place, _, name = rule["validator"].rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"bundle_rules_{abs(hash(place))}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"no module in `{place}`")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found = getattr(module, name)
    return _of_function(found, rule["kwargs"]) if rule["kind"] == "python" else _of_validator(found, rule["kwargs"])


def _of_function(function: Any, kwargs: dict[str, Any]) -> Callable[[str], Verdict]:
    if not callable(function):
        raise TypeError(f"`{function!r}` is not a function")

    def decide(text: str) -> Verdict:
        said = function(text, **kwargs)
        if said is None or said is True:
            return True, "", None
        if said is False or isinstance(said, str):
            return False, said or "the function says no", None
        if not isinstance(said, list | tuple):
            raise TypeError("neither a verdict nor spans")
        spans = [(_whole_number(start), _whole_number(end)) for start, end in said]
        return not spans, f"{len(spans)} spans", spans

    return decide


def _of_validator(kind: Any, kwargs: dict[str, Any]) -> Callable[[str], Verdict]:
    from guardrails.validators import FailResult, PassResult, Validator

    if not (isinstance(kind, type) and issubclass(kind, Validator)):
        raise TypeError(f"`{getattr(kind, '__name__', kind)}` is not a guardrails-ai validator class")
    validator = kind(on_fail="noop", **kwargs)

    def decide(text: str) -> Verdict:
        result = validator.validate(text, {})
        if isinstance(result, PassResult):
            return True, "", None
        if not isinstance(result, FailResult):
            raise TypeError("the validator returned no result")
        return False, str(result.error_message), error_spans(result.error_spans)

    return decide


def error_spans(spans: Any) -> Spans | None:
    """Return a validator's error spans as pairs; None when there are none or they are no spans."""
    try:
        return [(int(span.start), int(span.end)) for span in spans or ()]
    except (TypeError, ValueError, AttributeError):
        return None


def _whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a span is a pair of whole numbers")
    return value


def _send(line: Any, message: dict[str, Any]) -> None:
    line.write(json.dumps(message).encode() + b"\n")
    line.flush()


if __name__ == "__main__":
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # what the code prints may hold the text
    main(int(sys.argv[1]))
