"""Messages that wait in a socket leave the event loop its turns: what vLLM's API server needs to notice a leaving."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from policies.engines.turns import take_turns

MESSAGES = 2000


async def _turns_of_others(socket: type[Any], where: Path) -> tuple[int, list[bytes]]:
    """Read messages that all wait already; return how often something else ran meanwhile, and what was read."""
    with zmq.Context() as senders:
        sender = senders.socket(zmq.PUSH)
        sender.bind(f"ipc://{where}")
        receiver = socket(zmq.Context.instance(), zmq.PULL)
        receiver.connect(f"ipc://{where}")
        for number in range(MESSAGES):
            sender.send_multipart([b"m", b"%d" % number])
        turns, found = 0, [(await receiver.recv_multipart(copy=False))[1].bytes]
        await asyncio.sleep(0.3)  # all of them lie in the receiver now

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        while len(found) < MESSAGES:
            found.append((await receiver.recv_multipart(copy=False))[1].bytes)
        task.cancel()
        receiver.close(linger=0)
        sender.close(linger=0)
    return turns, found


def test_a_flood_of_messages_leaves_others_their_turns(tmp_path: Path) -> None:
    class Patched(zmq.asyncio.Socket):
        """A class of its own, so that other tests keep pyzmq as it is."""

    take_turns(Patched)
    starved, _ = asyncio.run(_turns_of_others(zmq.asyncio.Socket, tmp_path / "a"))
    turns, found = asyncio.run(_turns_of_others(Patched, tmp_path / "b"))
    assert starved < MESSAGES / 10  # what vLLM's loop does without
    assert turns >= MESSAGES - 1
    assert found == [b"%d" % number for number in range(MESSAGES)]


def test_a_reader_that_is_cancelled_at_its_turn_loses_nothing(tmp_path: Path) -> None:
    class Patched(zmq.asyncio.Socket):
        """A class of its own, so that other tests keep pyzmq as it is."""

    take_turns(Patched)

    async def read() -> bytes:
        with zmq.Context() as context:
            sender = context.socket(zmq.PUSH)
            sender.bind(f"ipc://{tmp_path / 'c'}")
            receiver: Any = Patched(zmq.Context.instance(), zmq.PULL)
            receiver.connect(f"ipc://{tmp_path / 'c'}")
            sender.send_multipart([b"kept"])
            assert await receiver.poll(5000)
            given_up = asyncio.create_task(receiver.recv_multipart())
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            (message,) = await asyncio.wait_for(receiver.recv_multipart(), 5)
            receiver.close(linger=0)
            sender.close(linger=0)
            return bytes(message)

    assert asyncio.run(read()) == b"kept"
