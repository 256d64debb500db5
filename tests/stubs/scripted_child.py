"""A harness child whose work is the Python text in its request: `python -P -m tests.stubs.scripted_child FILE`."""

import os
import signal

from evals.children.link import serve
from registry.errors import SpecError


def work(request, link):
    exec(request["do"], {"request": request, "link": link, "os": os, "signal": signal, "SpecError": SpecError})


if __name__ == "__main__":
    serve(work)
