"""The proxies of our own that benchmarks put in front of an engine, each run as a child process.

python benchmarks/proxies.py bare|hallmark --uds PATH --port N --folder DIR [--rules 200] [--strict]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BUNDLE = ROOT / "policies" / "bundles" / "default"
KEY_ID, SECRET = "00", "secret"
KEY = f"hk_{KEY_ID}_{SECRET}"
GENEROUS = 1_000_000_000
"""A budget that is kept and never spent."""


def run_bare(uds: Path, port: int) -> None:
    """Pass every body through: our HTTP server and our client of the engine, and nothing between them."""
    from policies.endpoint.listener import Listener, bind
    from policies.endpoint.upstream import Upstream

    upstream = Upstream(uds)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        call = upstream.call(scope["method"], scope["path"], body)
        status = await call.start()
        headers = [(b"content-type", b"text/event-stream" if b'"stream":true' in body else b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while data := await call.chunk():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    Listener(application, bind("127.0.0.1", port)).run()


def run_hallmark(uds: Path, port: int, folder: Path, rules: int, *, strict: bool = False) -> None:
    """Serve with everything on: keys, four budgets kept on disk, Cedar, input and output rules, decision log on disk.

    Two callers: `mia` with the key `KEY`, whose budgets are never spent, and `sam` (`hk_01_secret`), two requests a
    minute.
    """
    from policies.access.authorize import Authorizer, ModelState
    from policies.access.callers import Callers, hash_secret
    from policies.access.limits import Limits
    from policies.bundle import compile_bundle, load
    from policies.endpoint.audit import DecisionLog
    from policies.endpoint.desk import Desk, Front
    from policies.endpoint.exchange import Served
    from policies.endpoint.gateway import Gateway
    from policies.endpoint.listener import Listener, bind, settled_memory
    from policies.endpoint.upstream import Upstream
    from policies.enforcement.engine import Enforcer
    from registry.journal import Journal

    bundle = load(make_bundle(folder / "bundle", rules))
    budgets = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests")
    rows = [
        {"name": name, "groups": ["members"], "attributes": attributes, "key_id": key_id,
         "key_hash": hash_secret(key_id, SECRET)}
        for name, key_id, attributes in (
            ("mia", KEY_ID, dict.fromkeys(budgets, GENEROUS)), ("sam", "01", {"requests_per_minute": 2}))
    ]  # fmt: skip
    (folder / "journal").mkdir()
    journal = Journal(folder / "journal", "benchmark")
    decisions = DecisionLog(journal.write, endpoint="prod", mode="strict" if strict else "group")
    served = Served("prod", "model", "engine", "sha256:c", "sha256:cert", bundle.digest)
    desk = Desk(
        served, ModelState("model", "sha256:c", "sha256:cert", "certified"), Enforcer(compile_bundle(bundle)),
        Authorizer(bundle), Upstream(uds),
    )  # fmt: skip
    front = Front(Callers(lambda: rows), decisions, os.urandom(32), limits=Limits(folder / "budgets"))
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it has drained
    with settled_memory():
        Listener(Gateway(front, [desk]), bind("127.0.0.1", port), drain_s=5).run()
    decisions.close()


def make_bundle(folder: Path, rules: int) -> Path:
    """Return a copy of the default bundle, filled up with made-up token formats to a number of rules."""
    shutil.copytree(BUNDLE, folder)
    path = folder / "bundle.yaml"
    text = path.read_text()
    made = text.count("id: ")
    text += "".join(
        f"  - {{id: made-up-{n}, kind: regex, side: both, type: token, pattern: '\\bmu{n}_[A-Za-z0-9]{{20,40}}'}}\n"
        for n in range(max(0, rules - made))
    )
    path.write_text(text)
    return folder


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=("bare", "hallmark"))
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rules", type=int, default=0)
    parser.add_argument("--strict", action="store_true")
    chosen = parser.parse_args()
    if chosen.kind == "bare":
        run_bare(chosen.uds, chosen.port)
    else:
        run_hallmark(chosen.uds, chosen.port, chosen.folder, chosen.rules, strict=chosen.strict)


if __name__ == "__main__":
    main()
