"""Python rules that behave well and badly: what the guard worker must tell apart and survive."""

import os
import socket
import subprocess
import time


def _hang(text: str) -> None:
    time.sleep(60)


def _spin(text: str) -> None:
    while True:
        text += "x"[:0]


DOES = {
    "raise": lambda text: 1 // 0,
    "hang": _hang,
    "spin": _spin,
    "exit": lambda text: os._exit(3),
    "network": lambda text: socket.create_connection(("127.0.0.1", 9)),
    "process": lambda text: subprocess.run(["/bin/true"], check=False),
    "memory": lambda text: bytearray(1 << 33),
    "print": lambda text: print('{"id": 1, "ok": true}'),
    "fail": lambda text: False,
    "words": lambda text: "these words",
    "spans": lambda text: [(0, 2), (1, 3)],
    "none": lambda text: [],
    "outside": lambda text: [(0, 99)],
    "number": lambda text: 1,
    "truths": lambda text: [(False, True)],
}


def odd(text: str, also: str = "") -> object:
    """Do what the text says."""
    return f"also {also}" if text == also else DOES.get(text, lambda text: None)(text)


def odd_again(text: str) -> object:
    """Do the same, as a second rule."""
    return odd(text.removeprefix("second "))


NOT_A_FUNCTION = 7
