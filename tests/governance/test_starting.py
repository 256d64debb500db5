"""An endpoint that starts in the background: first use waits, errors surface, close always works."""

import threading
from types import SimpleNamespace

import pytest

from governance.starting import StartingEndpoint
from registry.errors import EngineFailure


def endpoint(closed):
    return SimpleNamespace(
        base_url="http://x/v1", api_key="k", permit="p", headers={"a": "b"}, close=lambda: closed.append(True)
    )


def test_first_use_waits_for_the_start_and_close_stops_it():
    go, closed = threading.Event(), []

    def start():
        go.wait(10)
        return endpoint(closed)

    starting = StartingEndpoint(start)
    threading.Timer(0.05, go.set).start()
    assert (starting.base_url, starting.api_key, starting.permit, starting.headers) == (
        "http://x/v1",
        "k",
        "p",
        {"a": "b"},
    )
    starting.close()
    assert closed == [True]


def test_what_nobody_asks_is_never_started():
    started = []
    starting = StartingEndpoint(lambda: started.append(True))
    starting.close()
    assert started == []


def test_a_failed_start_is_raised_on_use_and_not_on_close():
    def start():
        raise EngineFailure("no engine", hint="look at the log")

    starting = StartingEndpoint(start)
    with pytest.raises(EngineFailure, match="no engine"):
        _ = starting.base_url
    starting.close()
