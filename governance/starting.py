"""A guarded endpoint that starts while the weights are measured: whoever asks for it first waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from registry.protocols import GuardedEndpoint


class StartingEndpoint:
    """A `registry.protocols.GuardedEndpoint` made by `start` in a thread; a failed start is raised on first use."""

    def __init__(self, start: Callable[[], GuardedEndpoint]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="endpoint")
        self._endpoint = self._pool.submit(start)

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:<port>/v1`."""
        return self._endpoint.result().base_url

    @property
    def api_key(self) -> str:
        """The evaluator's key."""
        return self._endpoint.result().api_key

    @property
    def permit(self) -> str:
        """The permit under which it serves."""
        return self._endpoint.result().permit

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries besides the key."""
        return self._endpoint.result().headers

    def close(self) -> None:
        """Stop the endpoint where it started; one that failed to start needs no stopping."""
        if self._endpoint.exception() is None:
            self._endpoint.result().close()
        self._pool.shutdown()
