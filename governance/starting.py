"""A guarded endpoint that starts when it is first asked for, or in the background while something else is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from registry.protocols import GuardedEndpoint


class StartingEndpoint:
    """A `registry.protocols.GuardedEndpoint` made by `start` in a thread; a failed start is raised on first use."""

    def __init__(self, start: Callable[[], GuardedEndpoint]) -> None:
        self._start = start
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="endpoint")
        self._endpoint: Future[GuardedEndpoint] | None = None

    def begin(self) -> Future[GuardedEndpoint]:
        """Start it if it has not been started; return at once."""
        if self._endpoint is None:
            self._endpoint = self._pool.submit(self._start)
        return self._endpoint

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>/v1`."""
        return self.begin().result().base_url

    @property
    def api_key(self) -> str:
        """The evaluator's key."""
        return self.begin().result().api_key

    @property
    def permit(self) -> str:
        """The permit under which it serves."""
        return self.begin().result().permit

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries besides the key."""
        return self.begin().result().headers

    @property
    def model(self) -> str:
        """The model to ask for; empty: the one it serves."""
        return str(getattr(self.begin().result(), "model", ""))

    def close(self) -> None:
        """Stop the endpoint where it started; one that was never started, or failed to start, needs no stopping."""
        if self._endpoint is not None and self._endpoint.exception() is None:
            self._endpoint.result().close()
        self._pool.shutdown()
