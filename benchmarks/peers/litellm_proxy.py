"""LiteLLM's proxy as a peer of the gateway benchmark: its own environment, and a configuration as close as it gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOCK = HERE / "litellm.txt"
PEER = HERE.parent.parent / ".hallmark-peers" / "litellm"


def install() -> None:
    """Make LiteLLM's environment from its lock."""
    print(f"installing LiteLLM into {PEER} (some 120 packages)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin" / "pip"), "install", "--quiet", "--requirement", str(LOCK)], check=True)


def locked_version() -> str:
    """Return the version of LiteLLM in the lock."""
    lines = LOCK.read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("litellm=="))


def litellm_config(bundle: Path, engine_port: int, *, content_filter: bool) -> dict[str, Any]:
    """Return LiteLLM's configuration: one model, a master key, and a bundle's patterns as its filter's."""
    from policies.bundle import load
    from policies.enforcement.rules import RegexRule, TopicRule

    config: dict[str, Any] = {
        "model_list": [{"model_name": "model", "litellm_params": {
            "model": "openai/engine", "api_base": f"http://127.0.0.1:{engine_port}/v1", "api_key": "none"}}],
        "general_settings": {"master_key": "sk-benchmark"},
        "litellm_settings": {"telemetry": False, "request_timeout": 60},
    }  # fmt: skip
    if content_filter:
        rules = load(bundle).spec.rules
        patterns = [{"pattern_type": "regex", "pattern": rule.pattern, "name": rule.id.replace("-", "_"),
                     "action": "BLOCK" if rule.action == "block" else "MASK"}
                    for rule in rules if isinstance(rule, RegexRule)]  # fmt: skip
        words = [{"keyword": word, "action": "BLOCK"} for rule in rules if isinstance(rule, TopicRule)
                 for word in rule.keywords]  # fmt: skip
        config["guardrails"] = [{"guardrail_name": "filter", "litellm_params": {
            "guardrail": "litellm_content_filter", "mode": ["pre_call", "post_call"], "default_on": True,
            "patterns": patterns, "blocked_words": words}}]  # fmt: skip
    return config
