"""Contamination screening: rows and words a second of CPU time, and memory, for a million short rows and 5,000 samples.

python benchmarks/contamination.py [--rows 1000000]

Rows of 40 words from a vocabulary of 50,000 stream past the samples' index; every hundredth sample is hidden in a row.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import write_result
from evals.overlap import Index

SAMPLES, SAMPLE_WORDS, ROW_WORDS, POOL, BATCH = 5_000, 60, 40, 50_000, 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    rows = options.parse_args().rows
    draws = random.Random(0)
    words = [f"w{number}" for number in range(50_000)]

    def text(length: int) -> str:
        return " ".join(words[int(50_000 * draws.random() ** 3)] for _ in range(length))

    samples = {str(number): text(SAMPLE_WORDS) for number in range(SAMPLES)}
    pool = [text(ROW_WORDS) for _ in range(POOL)]
    hidden = [name for name in samples if int(name) % 100 == 0]
    for place, name in enumerate(hidden):
        pool[place * 7] = f"{pool[place * 7]} {samples[name]}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    index = Index(samples)
    indexed = time.process_time()
    for start in range(0, rows, BATCH):
        batch = [pool[number % POOL] for number in range(start, min(rows, start + BATCH))]
        index.feed(batch, ["place"] * len(batch))
    counted, _ = index.hits()
    spent = time.process_time() - indexed
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if sorted(counted) != sorted(hidden):
        raise SystemExit(f"{len(counted)} samples found, {len(hidden)} were hidden")
    figures = {
        "rows": rows,
        "samples": SAMPLES,
        "found": len(counted),
        "index_cpu_s": round(indexed - began, 2),
        "rows_per_cpu_s": round(rows / spent),
        "words_per_cpu_s": round(rows * ROW_WORDS / spent),
        "cpu_s": round(spent, 1),
        "memory_grown_mib": round(grown, 1),
    }
    speed = f"{figures['rows_per_cpu_s']:,} rows and {figures['words_per_cpu_s']:,} words a second of CPU"
    print(f"{rows:,} rows, {SAMPLES:,} samples: {speed}, {figures['memory_grown_mib']} MiB more memory")
    write_result("contamination", figures, packages=("numpy",))


if __name__ == "__main__":
    main()
