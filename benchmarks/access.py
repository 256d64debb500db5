"""What deciding who may costs: identity, Cedar, exemptions and budgets of one request, and the same without memory.

CPU time of this process, in microseconds, the median of interleaved rounds. The default bundle's access rules, 50 rules
for exemptions, a caller with a group, an attribute and all four budgets.

    python benchmarks/access.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from measure import write_result

import policies
from policies.access.authorize import Authorizer, Caller, ModelState
from policies.access.callers import Callers, create_key
from policies.access.jwks import KeySource
from policies.access.limits import Limits
from policies.access.tokens import Issuer, Tokens
from policies.bundle import load

HERE = Path(__file__).resolve().parent
BUNDLE = Path(policies.__file__).parent / "bundles" / "default"
MODEL = ModelState("stdlib", "sha256:c", "sha256:k", "certified")
BUDGETS = {"requests_per_minute": 1e9, "tokens_per_minute": 1e12, "tokens_per_day": 1e15, "concurrent_requests": 64}
EXEMPTION = 'permit (principal in Group::"members", action == Action::"exempt", resource == Rule::"payment-card");'
NOBODY = Caller("nobody")
FACTS = {"decoding": [], "stream": True, "max_tokens": 256, "tools": False, "purpose": "", "data_class": "internal",
         "surface": "chat", "tool_names": []}  # fmt: skip


class Exempting:
    """The default bundle with one exemption."""

    def __init__(self) -> None:
        bundle = load(BUNDLE)
        self.access, self.schema, self.digest = bundle.access + EXEMPTION, bundle.schema, bundle.digest
        self.rules = bundle.spec.rules[:50]


def signed(subjects: int) -> tuple[Tokens, list[bytes]]:
    """Return tokens of an issuer with one RSA key, and as many good tokens."""
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    key = RSAKey.generate_key(2048, {"kid": "k"})
    data = json.dumps({"keys": [key.as_dict(private=False)]}).encode()
    keys = KeySource(lambda: data, refresh_s=300, keep_s=3600)
    known = Tokens([Issuer("corp", "https://login", frozenset({"hallmark"}), frozenset({"RS256"}), keys)])
    known.refresh()
    now = int(time.time())
    claims = {"iss": "https://login", "aud": "hallmark", "iat": now, "exp": now + 3000, "groups": ["members"]}
    head = {"alg": "RS256", "kid": "k"}
    return known, [jwt.encode(head, {**claims, "sub": f"u{number}"}, key).encode() for number in range(subjects)]


def questions(folder: Path, fresh: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return what is measured and how often a round does it; `fresh` first-time questions are kept ready."""
    bundle = Exempting()
    authorizer, caller = Authorizer(bundle), Caller("ada", frozenset({"members"}), {"team": "ml", **BUDGETS})
    strangers = (Caller(f"u{number}", frozenset({"members"}), {"team": "ml"}) for number in count())
    key, key_id, key_hash = create_key()
    known, tokens = signed(fresh)
    row = {"name": "ada", "groups": ["members"], "attributes": {}, "key_id": key_id, "key_hash": key_hash}
    callers, unseen = Callers(lambda: [row], tokens=known), iter(tokens[1:])
    by_key, by_token = f"Bearer {key}".encode(), b"Bearer " + tokens[0]
    memory, kept = Limits(), Limits(folder / "budgets")
    return {
        "identify, API key": (lambda: callers.identify(by_key), 5000),
        "identify, token seen before": (lambda: callers.identify(by_token), 5000),
        "identify, token for the first time": (lambda: callers.identify(b"Bearer " + next(unseen)), 50),
        "access decided before": (lambda: authorizer.decide(caller, "chat", MODEL, FACTS), 5000),
        "access of a new caller": (lambda: authorizer.decide(next(strangers), "chat", MODEL, FACTS), 200),
        "exemptions asked before": (lambda: authorizer.exemptions(caller, MODEL, bundle.rules), 5000),
        "exemptions of a new caller, 50 rules": (
            lambda: authorizer.exemptions(next(strangers), MODEL, bundle.rules), 50,
        ),
        "four budgets, admit and settle": (lambda: memory.admit(caller, 300).settle(120), 5000),
        "four budgets, kept on disk": (lambda: kept.admit(caller, 300).settle(120), 5000),
        "no budget": (lambda: memory.admit(NOBODY, 300), 5000),
    }  # fmt: skip


def main() -> int:
    """Print the table and the line of figures, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "access.json")
    given = parser.parse_args()
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(Path(folder), 60 * (given.rounds + 1))
        for number in range(given.rounds + 1):
            for name, (ask, times) in asked.items():
                begun = time.process_time()
                for _ in range(times):
                    ask()
                spent = (time.process_time() - begun) / times * 1e6
                if number:  # the first round fills the memory
                    costs.setdefault(name, []).append(spent)
    cpu = {name: statistics.median(found) for name, found in costs.items()}
    print(f"{'question':<40}{'CPU, us':>10}{'lowest':>10}{'highest':>10}")
    for name, found in costs.items():
        print(f"{name:<40}{cpu[name]:>10.2f}{min(found):>10.2f}{max(found):>10.2f}")
    known = ("access decided before", "exemptions asked before")
    figures = {
        "rounds": given.rounds,
        "cpu_us": {name: round(value, 2) for name, value in cpu.items()},
        "access_and_exemptions_us": round(sum(cpu[name] for name in known), 2),
    }
    write_result("access", figures, packages=("cedarpy", "joserfc", "cryptography"), out=given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
