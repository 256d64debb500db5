"""Does anything leak from a stream, and what does holding back cost? Random streams, random chunkings, planted secrets.

    python benchmarks/leak.py [--streams 2000] [--seed 0]

For the default bundle and for 200 rules. Each stream is prose of the standard library with matches of the bundle's own
patterns planted in it, cut at random; every stream's text is compared with the whole text's, every planted match
looked for in what left. Beside it, one stream in 20 through a fixed window of 50 characters, as filters commonly keep.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import re
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policies.bundle import load
from policies.engine import Enforcer
from policies.pattern import Chars, Choice, Node, Series, parse
from policies.rules import AnyRule, RegexRule
from policies.scan import CompiledBundle, compile_side

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "policies" / "bundles" / "default"
WINDOW = 50


@dataclass
class Tally:
    """What one rule set did."""

    rules: int
    build_s: float
    streams: int = 0
    chunks: int = 0
    characters: int = 0
    planted: int = 0
    leaked: int = 0
    different: int = 0
    seconds: float = 0.0
    held: int = 0
    clean_held: int = 0
    clean_chunks: int = 0
    window_planted: int = 0
    window_leaked: int = 0


def sample(node: Node, rng: random.Random) -> str:
    """Return a random text of a pattern."""
    if isinstance(node, Chars):
        low, high = rng.choice([r for r in node.ranges if r[0] < 128] or node.ranges)
        return chr(rng.randint(max(low, 33 if high > 33 else low), min(high, 126)))
    if isinstance(node, Series):
        return "".join(sample(item, rng) for item in node.items)
    if isinstance(node, Choice):
        return sample(rng.choice(node.options), rng)
    count = rng.randint(node.low, min(node.high, node.low + 40))
    return "".join(sample(node.item, rng) for _ in range(count))


def secret(rule: RegexRule, rng: random.Random) -> str:
    """Return a random match of a rule, checksum included."""
    branches = parse(rule.pattern)
    while True:
        text = sample(rng.choice(branches).body, rng)
        if rule.passes(text):
            return text


def two_hundred(rules: list[AnyRule]) -> list[AnyRule]:
    """Return the rules and as many made-up token formats as make 200."""
    made = []
    for n in range(200 - len(rules)):
        prefix = chr(97 + n % 26) + chr(97 + n * 7 % 26) + chr(97 + n * 3 % 26) + str(n % 10)
        pattern = rf"\b{prefix}[_-][A-Za-z0-9]{{24,64}}"
        made.append(RegexRule(id=f"made-{n}", kind="regex", side="both", type="token", pattern=pattern))
    return [*rules, *made]


def compose(prose: str, rules: list[RegexRule], rng: random.Random, secrets: int) -> tuple[str, list[tuple[int, int]]]:
    """Return a text and where its planted matches lie."""
    text, places = "", []
    for _ in range(secrets + 1):
        start = rng.randrange(len(prose) - 400)
        text += prose[start : start + rng.randint(20, 400)]
        if len(places) < secrets:
            text += rng.choice([" ", '"', "\n", "=", "("])
            found = secret(rng.choice(rules), rng)
            places.append((len(text), len(text) + len(found)))
            text += found + rng.choice([" ", '"', "\n", ", ", ")"])
    return text, places


def cut(text: str, rng: random.Random) -> list[str]:
    """Return a text in random pieces: single characters, tokens of a few, or large ones."""
    most = rng.choice([1, 4, 8, 40])
    pieces, place = [], 0
    while place < len(text):
        size = rng.randint(1, most)
        pieces.append(text[place : place + size])
        place += size
    return pieces


def run_stream(enforcer: Enforcer, text: str, places: list[tuple[int, int]], pieces: list[str], tally: Tally) -> None:
    """Push one stream; count what leaked and what differs from the whole text."""
    stream = enforcer.stream()
    out, hits, held = [], [], 0
    begun = time.process_time()
    for piece in pieces:
        released = stream.push(piece)
        out.append(released.text)
        hits += released.hits
        held += stream.held
    last = stream.finish()
    tally.seconds += time.process_time() - begun
    out.append(last.text)
    hits += last.hits
    left = "".join(out)
    tally.streams += 1
    tally.chunks += len(pieces)
    tally.characters += len(text)
    tally.held += held
    if not places:
        tally.clean_held += held
        tally.clean_chunks += len(pieces)
    tally.planted += len(places)
    tally.different += left != enforcer.check_output(text).text
    for start, end in places:
        covered = any(hit.start <= start and end <= hit.end for hit in hits)
        tally.leaked += not covered or text[start:end] in left


def window_leaks(patterns: list[re.Pattern[str]], places: list[tuple[int, int]], pieces: list[str]) -> int:
    """Return how many planted matches lose characters to a filter that always holds back the last 50 characters.

    It redacts what its patterns find in the held text, and keeps a match that reaches into the last 50 whole.
    """
    held, base, leaked = "", 0, set()
    for piece in pieces:
        held += piece
        if len(held) <= WINDOW:
            continue
        cut = len(held) - WINDOW
        matches = [match.span() for pattern in patterns for match in pattern.finditer(held)]
        cut = max([cut, *(end for start, end in matches if start < cut < end)])
        for number, (start, end) in enumerate(places):
            sent = range(max(0, start - base), min(cut, end - base))
            if any(not any(a <= offset < b for a, b in matches) for offset in sent):
                leaked.add(number)
        held, base = held[cut:], base + cut
    return len(leaked)


def measure(name: str, rules: list[AnyRule], streams: int, seed: int) -> Tally:
    """Return the tally of one rule set."""
    begun = time.process_time()
    sides = compile_side(rules, "input"), compile_side(rules, "output")
    enforcer = Enforcer(CompiledBundle(name, "", BUNDLE, *sides))
    tally = Tally(len(rules), time.process_time() - begun)
    redacting = [rule for rule in rules if isinstance(rule, RegexRule) and rule.action == "redact"]
    patterns = [re.compile(rule.pattern, re.ASCII) for rule in redacting]
    import pydoc_data.topics

    prose = re.sub(r"\s+", " ", " ".join(pydoc_data.topics.topics.values()))
    rng = random.Random(seed)
    for number in range(streams):
        text, places = compose(prose, redacting, rng, 0 if number % 4 == 0 else rng.randint(1, 8))
        pieces = cut(text, rng)
        run_stream(enforcer, text, places, pieces, tally)
        if number % 20 == 1:
            tally.window_planted += len(places)
            tally.window_leaked += window_leaks(patterns, places, pieces)
    return tally


def figures(tally: Tally) -> dict[str, float]:
    """Return a tally as named figures, units in the names."""
    return {
        "rules": tally.rules,
        "build_cpu_s": round(tally.build_s, 3),
        "streams": tally.streams,
        "chunks": tally.chunks,
        "planted": tally.planted,
        "leaked": tally.leaked,
        "different": tally.different,
        "cpu_us_per_chunk": round(tally.seconds / tally.chunks * 1e6, 2),
        "cpu_ns_per_character": round(tally.seconds / tally.characters * 1e9, 1),
        "mean_held_characters": round(tally.held / tally.chunks, 2),
        "mean_held_characters_clean_prose": round(tally.clean_held / max(1, tally.clean_chunks), 2),
        "window_50_planted": tally.window_planted,
        "window_50_leaked": tally.window_leaked,
    }


def main() -> int:
    """Run, print the table and the line of figures, keep them; exit 1 if anything leaked or differed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--streams", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    default = list(load(BUNDLE).spec.rules)
    results = {
        "default": figures(measure("default", default, given.streams, given.seed)),
        "rules_200": figures(measure("200", two_hundred(default), given.streams, given.seed + 1)),
    }
    print(f"{'':42}" + "".join(f"{name:>14}" for name in results))
    for row in results["default"]:
        print(f"{row:42}" + "".join(f"{found[row]:>14,}" for found in results.values()))
    report = {
        "benchmark": "leak",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.processor() or 'unknown'}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "hyperscan": version("hyperscan")},
        "seed": given.seed,
        **results,
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "leak.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report))
    return int(any(found["leaked"] or found["different"] for found in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
