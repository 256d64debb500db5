"""Counters of the endpoint in Prometheus' text format 0.0.4: no names of callers, no text, no rule ids.

`count`, `gauge` and `add` take any family of `FAMILIES`; what they have not met yet is not on the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.endpoint.desk import Desk
    from policies.endpoint.exchange import Exchange

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
FAMILIES = {
    "requests_total": ("counter", "Requests decided, by surface, action and status."),
    "refusals_total": ("counter", "Requests refused, by the refusal's code."),
    "budget_refusals_total": ("counter", "Requests refused with 429: a budget of the caller was spent."),
    "tokens_total": ("counter", "Tokens that the engine reported, by kind."),
    "released_characters_total": ("counter", "Characters of answers released to callers."),
    "held_characters": ("summary", "Characters held back after a chunk of a stream's main text, by surface."),
    "request_seconds": ("histogram", "Seconds from a request's arrival to its outcome."),
    "active_requests": ("gauge", "Requests that are running."),
    "waiting_requests": ("gauge", "Requests that wait for their turn."),
    "connections": ("gauge", "Open connections."),
    "connections_refused_total": ("counter", "Connections ended without a request, by reason."),
    "desk_active_requests": ("gauge", "Requests that are running, by model."),
    "desk_up": ("gauge", "Whether a model's requests are answered, by model."),
    "engine_up": ("gauge", "Whether any engine runs."),
    "engine_restarts_total": ("counter", "Engines started again after a crash, by model."),
    "reloads_total": ("counter", "Reloads of callers, bundles and releases, by what and outcome."),
    "certificate_expires_timestamp_seconds": ("gauge", "When the certificate of a model ends, by model."),
    "decision_log_up": ("gauge", "Whether decisions reach the disk."),
    "decision_log_waiting": ("gauge", "Decisions that are not durable yet."),
    "decision_log_lag_seconds": ("gauge", "Age of the oldest decision that is not durable yet."),
    "spans_dropped_total": ("counter", "Trace spans that were not exported."),
}
"""Name without the `hallmark_` prefix: type and help text."""

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts of this process since it started."""

    def __init__(self) -> None:
        self.active = 0
        self.decided = 0
        """Requests decided so far."""
        self._values: dict[str, dict[Labels, float]] = {}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._prompt = self._completion = self._released = 0
        self._held: dict[str, tuple[int, int]] = {}
        self._latency = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def note(self, exchange: Exchange, released: int) -> None:
        """Count a decided request with its tokens, its refusal, and the characters released and held back."""
        self.count(exchange.surface, exchange.action, exchange.status, exchange.seconds())
        ledger = exchange.ledger
        if ledger.usage is not None:
            self.tokens(ledger.usage.prompt_tokens, ledger.usage.completion_tokens or 0)
        self._released += released
        if ledger.looks:
            held, looks = self._held.get(exchange.surface, (0, 0))
            self._held[exchange.surface] = held + ledger.held, looks + ledger.looks
        if exchange.code:
            self.add("refusals_total", code=exchange.code)
            if exchange.status == 429:
                self.add("budget_refusals_total")

    def count(self, surface: str, action: str, status: int, seconds: float) -> None:
        """Count one decided request."""
        key = (surface, action, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        self.decided += 1
        self._latency[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens the engine reported."""
        self._prompt += prompt
        self._completion += completion

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter of `FAMILIES`; raises KeyError for an unknown one."""
        self._family(name, "counter")
        values = self._values.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        values[key] = values.get(key, 0) + amount

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of `FAMILIES`; raises KeyError for an unknown one."""
        self._family(name, "gauge")
        self._values.setdefault(name, {})[tuple(sorted(labels.items()))] = value

    def restarted(self, model: str) -> None:
        """Count an engine that was started again."""
        self.add("engine_restarts_total", model=model)

    def reloaded(self, what: str, *, worked: bool) -> None:
        """Count a reload of `callers`, `bundle` or `release`."""
        self.add("reloads_total", what=what, outcome="taken" if worked else "failed")

    def expires(self, model: str, moment: float) -> None:
        """Say when the certificate of a model ends, in seconds since the epoch."""
        self.gauge("certificate_expires_timestamp_seconds", moment, model=model)

    def desks(self, desks: Iterable[Desk]) -> None:
        """Set what is known of the desks that take requests now."""
        self._values.pop("desk_up", None)
        self._values.pop("desk_active_requests", None)
        running = False
        for desk in desks:
            self.gauge("desk_up", int(not desk.closed), model=desk.served.model)
            self.gauge("desk_active_requests", desk.active, model=desk.served.model)
            running = running or "engine" not in desk.closed
        self.gauge("engine_up", int(running))

    def render(self) -> bytes:
        """Return the page."""
        lines: list[str] = []
        for name, (kind, text) in FAMILIES.items():
            samples = [*self._samples(name)]
            if samples:
                lines += [f"# HELP hallmark_{name} {text}", f"# TYPE hallmark_{name} {kind}", *samples]
        return ("\n".join(lines) + "\n").encode()

    def _samples(self, name: str) -> Iterable[str]:
        if name == "request_seconds":
            return self._histogram()
        if name == "held_characters":
            return self._summary()
        if name == "requests_total":
            found = {
                (("surface", surface), ("action", action), ("status", str(status))): count
                for (surface, action, status), count in sorted(self._requests.items())
            }
            return [_sample(name, labels, count) for labels, count in found.items()]
        plain = {
            "active_requests": self.active,
            "released_characters_total": self._released,
        }
        if name in plain:
            return [_sample(name, (), plain[name])]
        if name == "tokens_total":
            kinds = {"prompt": self._prompt, "completion": self._completion}
            return [_sample(name, (("kind", kind),), count) for kind, count in kinds.items()]
        return [_sample(name, labels, value) for labels, value in sorted(self._values.get(name, {}).items())]

    def _histogram(self) -> Iterable[str]:
        total = 0
        for edge, count in zip([*BUCKETS_S, "+Inf"], self._latency, strict=True):
            total += count
            yield _sample("request_seconds_bucket", (("le", str(edge)),), total)
        yield f"hallmark_request_seconds_sum {self._seconds:.6f}"
        yield _sample("request_seconds_count", (), total)

    def _summary(self) -> Iterable[str]:
        for surface, (held, looks) in sorted(self._held.items()):
            yield _sample("held_characters_sum", (("surface", surface),), held)
            yield _sample("held_characters_count", (("surface", surface),), looks)

    def _family(self, name: str, kind: str) -> None:
        if FAMILIES[name][0] != kind:
            raise KeyError(f"`{name}` is no {kind}")


def _sample(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"hallmark_{name}{{{inner}}} {value:.15g}" if inner else f"hallmark_{name} {value:.15g}"


def _escaped(text: str) -> str:
    """Return a label's value as the format wants it."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
