"""Takes turns in vLLM's API server: between two messages of the engine, everything else on its event loop gets one.

pyzmq answers at once while a message waits, and awaiting such an answer gives nothing else a turn. vLLM reads its
engine's messages in a loop of nothing but that: an engine that steps faster than they are read, as a small model does
or any on a busy machine, keeps the loop to itself until it is done. Meanwhile no caller's leaving is noticed, nothing
is sent, and no health is answered.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any


def take_turns(sockets: type | None = None) -> None:
    """Have every message that is awaited, of `sockets` (pyzmq's for asyncio), wait one turn of the event loop first.

    To be called before any socket is read. The turn comes before the message is taken, so that a reader which is
    cancelled loses none.
    """
    kind: Any = sockets or import_module("zmq.asyncio").Socket
    receive = kind.recv_multipart

    async def recv_multipart(self: Any, *given: Any, **named: Any) -> Any:
        await asyncio.sleep(0)
        return await receive(self, *given, **named)

    kind.recv_multipart = recv_multipart
