"""NeMo Guardrails' server as a peer of the gateway benchmark: its own environment, a bundle's patterns as its rails."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.environment import Peer

NEMO = Peer("nemo", "nemoguardrails", "nemo.txt")


def nemo_config(folder: Path, bundle: Path, engine_port: int) -> Path:
    """Write a configuration `filter`: one model, a bundle's patterns checked on input and output; return the folder."""
    from policies.bundle import load
    from policies.enforcement.rules import RegexRule

    patterns = [rule.pattern for rule in load(bundle).spec.rules if isinstance(rule, RegexRule)]
    config = {
        "models": [{"type": "main", "engine": "openai", "model": "engine", "parameters": {
            "base_url": f"http://127.0.0.1:{engine_port}/v1"}}],
        "rails": {
            "config": {"regex_detection": {"input": {"patterns": patterns}, "output": {"patterns": patterns}}},
            "input": {"flows": ["regex check input"]},
            "output": {"flows": ["regex check output"], "streaming": {
                "enabled": True, "chunk_size": 200, "context_size": 50, "stream_first": False}},
        },
    }  # fmt: skip
    place = folder / "configs" / "filter"
    place.mkdir(parents=True)
    (place / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    return place.parent


def nemo_command(configs: Path, port: int) -> list[str]:
    """Return how the server is started."""
    return [str(NEMO.program), "server", "--config", str(configs), "--port", str(port), "--default-config-id", "filter",
            "--disable-chat-ui"]  # fmt: skip
