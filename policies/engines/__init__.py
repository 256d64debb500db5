"""Inference engines: real processes behind a Unix socket that speak OpenAI's HTTP interface."""

from policies.engines.launch import ENGINES, EngineHandle, start

__all__ = ["ENGINES", "EngineHandle", "start"]
