"""The model that a child measures: an endpoint, or weights that are loaded once in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.children.link import Link
from evals.harness.provider import Client


class Measured:
    """Makes clients of the measured model. `opening` holds `target` (an endpoint, or `folder`) and `identity`."""

    def __init__(self, opening: dict[str, Any], link: Link) -> None:
        self._target, self._identity, self._link = opening["target"], opening["identity"], link
        self._weights: Any = None

    def client(self, answers: str) -> Client:
        """Return a client whose answers are kept in the file `answers`; weights are loaded for the first one."""
        if "folder" not in self._target:
            client = Client.resuming(self._target, answers, self._identity)
        else:
            client = self._of_weights(answers)
        client.spent = lambda tokens: self._link.send("spent", tokens=tokens, judge_calls=0)
        return client

    def _of_weights(self, answers: str) -> Client:
        from evals.children.generator import Generator, WeightsClient

        if self._weights is None:
            self._link.progress("loading model", 0, 1)
            target = self._target
            self._weights = Generator(Path(target["folder"]), target["random_seed"], target["system_prompt"])
            self._link.progress("loading model", 1, 1)
        return WeightsClient.of(self._weights, answers, self._identity)
