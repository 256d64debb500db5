"""Blocking work beside the event loop, in threads that never keep a stopping endpoint waiting for their end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


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

    threading.Thread(target=run, name=getattr(work, "__name__", "aside"), daemon=True).start()
    return await done
