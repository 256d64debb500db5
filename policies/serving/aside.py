"""Blocking work beside the event loop, in threads that a stopping endpoint waits for only so long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_running: set[threading.Thread] = set()


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Return what `work` returns, or raise what it raises; cancelled, it lets the thread run on and forgets it.

    The event loop's own executor would be waited for at the end, and an engine takes minutes to start.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = work(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            failed = error
        try:
            loop.call_soon_threadsafe(settle, result, failed)
        except RuntimeError:  # the loop is gone: nobody waits any more
            return
        finally:
            _running.discard(threading.current_thread())

    thread = threading.Thread(target=run, name=getattr(work, "__name__", "aside"), daemon=True)
    _running.add(thread)
    thread.start()
    return await done


def finish(seconds: float) -> bool:
    """Wait for the work that nobody awaits any more; return whether all of it ended in time.

    A thread that is in foreign code when the interpreter ends would take the process down with an abort.
    """
    until = time.monotonic() + seconds
    for thread in list(_running):
        thread.join(max(0.0, until - time.monotonic()))
    return not _running
