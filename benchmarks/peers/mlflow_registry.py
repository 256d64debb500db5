"""MLflow's sqlite registry as a peer of the store benchmark: its own environment, and the work a child of it does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "mlflow.txt"
PEER = HERE.parent.parent / ".hallmark-peers" / "mlflow"
PYTHON = PEER / "bin" / "python"


def install() -> None:
    """Make MLflow's environment from its lock."""
    print(f"installing MLflow into {PEER} (some 45 packages)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", "--requirement", str(LOCK)], check=True)


def locked_version() -> str:
    """Return the version of MLflow in the lock."""
    lines = LOCK.read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("mlflow"))


def work(database: str, seconds: float) -> None:
    """Register versions and move an alias to each until the time is up; print the durations in ms as JSON."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(registry_uri=database, tracking_uri=database)
    if seconds == 0:  # the parent makes the tables before anyone is measured
        client.create_registered_model("code")
        return
    took, failed = [], 0
    client.get_registered_model("code")
    print("ready", flush=True)
    begin = float(input())
    while time.time() < begin + seconds:
        one = time.perf_counter()
        try:
            version = client.create_model_version("code", source="file:///model")
            client.set_registered_model_alias("code", "prod", version.version)
        except MlflowException:  # the database is locked, or two made the same version
            failed += 1
            continue
        took.append((time.perf_counter() - one) * 1000)
    print(json.dumps({"ms": took, "failed": failed}))


if __name__ == "__main__":
    work(sys.argv[1], float(sys.argv[2]))
