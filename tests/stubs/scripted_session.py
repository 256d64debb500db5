"""A harness child that answers several requests: `python -P -m tests.stubs.scripted_session FILE`."""

import os
import signal
import time

from evals.children.link import serve_session
from registry.errors import SpecError


def begin(opening, link):
    known = {"link": link, "os": os, "signal": signal, "time": time, "SpecError": SpecError, "state": dict(opening)}
    exec(opening.get("do", ""), known)
    return lambda request: exec(request["do"], {**known, "request": request})


if __name__ == "__main__":
    serve_session(begin)
