"""Counters of the endpoint in Prometheus' text format: no names of callers, no text, no rule ids."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Metrics:
    """Counts of this process since it started."""

    def __init__(self) -> None:
        self.active = 0
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._latency = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def count(self, surface: str, action: str, status: int, seconds: float) -> None:
        """Count one decided request."""
        self._requests[surface, action, status] += 1
        self._latency[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens the engine reported."""
        self._tokens["prompt"] += prompt
        self._tokens["completion"] += completion

    @property
    def decided(self) -> int:
        """Requests decided so far."""
        return sum(self._requests.values())

    def render(self, *, engine_up: bool, log_waiting: int) -> bytes:
        """Return the page."""
        lines = ["# TYPE hallmark_requests_total counter"]
        for (surface, action, status), count in sorted(self._requests.items()):
            labels = f'surface="{surface}",action="{action}",status="{status}"'
            lines.append(f"hallmark_requests_total{{{labels}}} {count}")
        lines.append("# TYPE hallmark_tokens_total counter")
        lines.extend(f'hallmark_tokens_total{{kind="{kind}"}} {count}' for kind, count in sorted(self._tokens.items()))
        lines.append("# TYPE hallmark_request_seconds histogram")
        total = 0
        for edge, count in zip([*BUCKETS_S, "+Inf"], self._latency, strict=True):
            total += count
            lines.append(f'hallmark_request_seconds_bucket{{le="{edge}"}} {total}')
        lines += [f"hallmark_request_seconds_sum {self._seconds:.6f}", f"hallmark_request_seconds_count {total}"]
        gauges = {"active_requests": self.active, "engine_up": int(engine_up), "decision_log_waiting": log_waiting}
        for name, value in gauges.items():
            lines += [f"# TYPE hallmark_{name} gauge", f"hallmark_{name} {value}"]
        return ("\n".join(lines) + "\n").encode()
