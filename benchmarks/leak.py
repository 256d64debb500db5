"""Does anything leak from a stream? Random texts with planted secrets, a million random ways to cut them, all surfaces.

    python benchmarks/leak.py [--chunkings 1000000] [--processes 2] [--seed 0] [--peer-streams 2000] [--peer-only]

A chunking is one text cut in one way and streamed to its end; its text and hits are compared with the whole text's, and
every planted match with what left. Rules: the default bundle as it is; the same with all views, codings and actions
dealt out over it; random sets of small rules on few letters, where everything collides. Part of the chunkings cut a
planted secret at one place, at every place in turn; part go through the endpoint's answers, on every surface and text
channel. In the same run, streams of the first kind go through LiteLLM's proxy with its content filter, where it is
installed. Exits 1 if a character leaked or a text differed.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pydantic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.leak_surfaces import SURFACES, channels_of, stream, whole
from benchmarks.leak_texts import Text, compose, cut, plantable, prose, small_rule, small_text, with_views
from benchmarks.measure import write_result
from policies.bundle import load
from policies.enforcement.engine import Enforcer, Hit
from policies.enforcement.rules import AnyRule, RegexRule
from policies.enforcement.scan import CompiledBundle, compile_side

BUNDLE = Path(__file__).resolve().parent.parent / "policies" / "bundles" / "default"
SHARES = {"default": 0.27, "views": 0.27, "small": 0.4, "surfaces": 0.06}
"""Part of the chunkings of each kind."""
BATCH = 2_500
CUTS = 20
"""Ways to cut each text."""


@dataclass
class Tally:
    """What a kind of chunkings did. `leaked` counts characters of planted matches, `different` chunkings."""

    chunkings: int = 0
    chunks: int = 0
    characters: int = 0
    texts: int = 0
    planted: int = 0
    missed: int = 0
    leaked: int = 0
    different: int = 0
    cpu_s: float = 0.0

    def add(self, other: Tally) -> None:
        """Count another tally in."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def enforcer_of(rules: list[AnyRule]) -> Enforcer:
    """Return the core with these rules on both sides."""
    entry = compile_side(rules, "input")
    return Enforcer(CompiledBundle("leak", "", BUNDLE, entry, compile_side(rules, "output", like=entry)))


@cache
def bundle_rules(kind: str) -> tuple[Enforcer, list[RegexRule]]:
    """Return the core with the default bundle, or with its views dealt out, and the rules to plant matches of."""
    rules = list(load(BUNDLE).spec.rules)
    rules = with_views(rules) if kind == "views" else rules
    return enforcer_of(rules), plantable(rules)


def uncovered(place: tuple[int, int], hits: list[Hit]) -> int:
    """Return how many characters of a planted match no hit covers."""
    start, end = place
    covered: set[int] = set()
    for hit in hits:
        covered.update(range(max(start, hit.start), min(end, hit.end)))
    return end - start - len(covered)


def run_cut(enforcer: Enforcer, made: Text, expected: Any, pieces: list[str], tally: Tally) -> None:
    """Stream a text in pieces; count what leaked, and whether it differs from the whole text."""
    channel = enforcer.stream()
    out, hits, stopped = [], list[Hit](), None
    begun = time.process_time()
    for piece in pieces:
        released = channel.push(piece)
        out.append(released.text)
        hits += released.hits
        if released.blocked:
            stopped = released.blocked
            break
    last = channel.finish()
    tally.cpu_s += time.process_time() - begun
    text, hits, stopped = "".join(out) + last.text, hits + list(last.hits), stopped or last.blocked
    tally.chunkings += 1
    tally.chunks += len(pieces)
    tally.characters += len(made.text)
    tally.different += (text, tuple(hits), stopped) != (expected.text, expected.hits, expected.blocked)
    if stopped is None:
        for place in made.places:
            tally.leaked += uncovered(place, hits)
            secret = made.text[slice(*place)]
            tally.leaked += len(secret) if len(secret) > 5 and secret in text else 0


def ways(made: Text, rng: random.Random) -> Iterator[list[str]]:
    """Yield ways to cut a text: random ones, then one planted match at each of its places."""
    for _ in range(CUTS):
        yield cut(made.text, rng)
    if made.places and rng.random() < 0.4:
        start, end = rng.choice(made.places)
        for place in range(start, min(end + 2, start + 60)):
            yield [made.text[:place], made.text[place:]]


def batch(kind: str, seed: int, count: int) -> Tally:
    """Run at least so many chunkings of a kind."""
    rng, tally = random.Random(f"{kind}-{seed}"), Tally()
    while tally.chunkings < count:
        if kind == "small":
            run_small(rng, tally)
        elif kind == "surfaces":
            run_surfaces(rng, tally)
        else:
            enforcer, rules = bundle_rules(kind)
            made = compose(rules, rng, rng.choice([0, 1, 1, 2, 3, 4]))
            run_text(enforcer, made, rng, tally)
    return tally


def run_text(enforcer: Enforcer, made: Text, rng: random.Random, tally: Tally) -> None:
    """Cut a text in all ways."""
    expected = enforcer.check_output(made.text)
    found = list(expected.hits)
    tally.texts += 1
    tally.planted += len(made.places)
    missed = [place for place in made.places if expected.blocked is None and uncovered(place, found)]
    tally.missed += len(missed)
    for pieces in ways(made, rng):
        run_cut(enforcer, made, expected, pieces, tally)


def run_small(rng: random.Random, tally: Tally) -> None:
    """Make a random set of small rules, and stream random texts through it."""
    adapter = pydantic.TypeAdapter(list[AnyRule])
    try:
        rules = adapter.validate_python([small_rule(rng, number) for number in range(rng.randint(1, 5))])
    except pydantic.ValidationError:  # a pattern that may match nothing on its view
        return
    enforcer = enforcer_of(rules)
    for _ in range(40):
        made = Text(small_text(rng), ())
        run_text(enforcer, made, rng, tally)


def run_surfaces(rng: random.Random, tally: Tally) -> None:
    """Say texts on the channels of an answer, interleaved, and read what a caller would."""
    enforcer, rules = bundle_rules("default")
    surface = rng.choice(SURFACES)
    made = [compose(rules, rng, rng.randint(0, 2), most=100) for _ in range(3)]
    said = channels_of(surface, [each.text for each in made], rng)
    expected = {channel: text for channel, text in whole(enforcer, said).items() if text}
    tally.texts += len(said)
    for _ in range(5):
        queues = [[(channel, piece) for piece in cut(text, rng)] for channel, text in said.items()]
        pieces = []
        while queues := [queue for queue in queues if queue]:
            pieces.append(rng.choice(queues).pop(0))
        begun = time.process_time()
        read, stopped = stream(enforcer, surface, pieces)
        tally.cpu_s += time.process_time() - begun
        read = {channel: text for channel, text in read.items() if text}
        tally.chunkings += 1
        tally.chunks += len(pieces)
        tally.characters += sum(map(len, said.values()))
        begins = all(expected.get(channel, "").startswith(text) for channel, text in read.items())
        tally.different += not begins if stopped else read != expected


def cost() -> dict[str, float]:
    """Return what a chunk of clean prose costs with the default bundle, once warm, and what is held of it."""
    enforcer, _ = bundle_rules("default")
    words = [re.findall(r" ?\S{1,7}", prose()[start : start + 3000]) for start in range(0, 300_000, 3000)]
    figures: dict[str, float] = {"rules": len(enforcer.compiled.output.rules)}
    for name in ("cold", "warm"):
        held = chunks = characters = 0
        begun = time.process_time()
        for text in words:
            channel = enforcer.stream()
            for piece in text:
                channel.push(piece)
            channel.finish()
        seconds = time.process_time() - begun
        for text in words[:30]:
            channel = enforcer.stream()
            for piece in text:
                channel.push(piece)
                held += channel.held
                chunks += 1
                characters += len(piece)
        figures[f"{name}_cpu_us_per_chunk"] = round(seconds / sum(map(len, words)) * 1e6, 2)
    figures["characters_per_chunk"] = round(characters / chunks, 2)
    figures["mean_held_characters_clean_prose"] = round(held / chunks, 2)
    return figures


def main() -> int:
    """Run, print the table and the line of figures, keep them; exit 1 if anything leaked or differed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--chunkings", type=int, default=1_000_000)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--peer-streams", type=int, default=2000)
    options.add_argument("--peer-only", action="store_true")
    options.add_argument("--out", type=Path, help="where the figures go instead of results/leak.json")
    given = options.parse_args()
    tallies = {kind: Tally() for kind in SHARES}
    if not given.peer_only:
        run_all(given.chunkings, given.processes, given.seed, tallies)
        names = [each.name for each in fields(Tally)]
        print(f"{'':12}" + "".join(f"{name:>13}" for name in names))
        for kind, tally in tallies.items():
            print(f"{kind:12}" + "".join(f"{getattr(tally, name):>13,.0f}" for name in names))
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    figures: dict[str, Any] = {"seed": given.seed, "total": _rounded(total)}
    figures |= {kind: _rounded(tally) for kind, tally in tallies.items()}
    figures["cost"] = cost()
    if given.peer_streams:
        from benchmarks.leak_peer import through_litellm

        figures["same_streams"] = through_litellm(given.peer_streams, given.seed)
        print(figures["same_streams"])
    write_result("leak", figures, packages=("hyperscan", "msgspec"), out=given.out)
    return int(total.leaked > 0 or total.different > 0 or total.missed > 0)


def run_all(chunkings: int, processes: int, seed: int, tallies: dict[str, Tally]) -> None:
    """Run all batches over several processes."""
    jobs = [
        (kind, seed * 1_000_000 + number, min(BATCH, int(chunkings * share)))
        for kind, share in SHARES.items()
        for number in range(max(1, -(-int(chunkings * share) // BATCH)))
    ]
    begun = time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [(kind, pool.submit(batch, kind, number, count)) for kind, number, count in jobs]
        for done, (kind, future) in enumerate(running, 1):
            tallies[kind].add(future.result())
            if done % 20 == 0 or done == len(running):
                print(f"{done}/{len(running)} batches, {time.monotonic() - begun:.0f} s", file=sys.stderr)


def _rounded(tally: Tally) -> dict[str, float]:
    return {name: round(value, 1) for name, value in asdict(tally).items()}


if __name__ == "__main__":
    raise SystemExit(main())
