"""The scheduler: one thread that decodes all sequences together, letting them join and leave between steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from policies.engines.decoding import News, Sequence
from policies.engines.language_model import PREFILL_TOKENS, LanguageModel
from policies.engines.sampling import NO_TOKEN, Sampler

logger = logging.getLogger(__name__)


class Batcher:
    """Continuous batching: waiting sequences are prefilled as soon as there is room, then every row takes one step.

    Args:
        model: the model; from now on only the batcher's thread uses it.
        sampler: draws the tokens.
        eos: tokens that end a text.
        deliver: called in the batcher's thread with all news of a step.
        most_rows: the most sequences decoded together.
        budget: the most cache positions, counted as rows times the longest row.
    """

    def __init__(
        self, model: LanguageModel, sampler: Sampler, eos: frozenset[int], deliver: Callable[[list[News]], None],
        *, most_rows: int, budget: int,
    ) -> None:  # fmt: skip
        self._model, self._sampler, self._eos, self._deliver = model, sampler, eos, deliver
        self._most_rows, self._budget = most_rows, budget
        self._waiting: deque[Sequence] = deque()
        self._rows: list[Sequence] = []
        self._admitted: list[list[Sequence]] = []
        self._news: list[News] = []
        self._wake = threading.Condition()
        self._stopping = False
        self.generated = 0
        """Tokens generated since the start."""
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    @property
    def load(self) -> int:
        """Return how many sequences are decoded or waiting."""
        return len(self._rows) + len(self._waiting)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step; unfinished sequences get no more news."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue sequences. Thread safe."""
        with self._wake:
            self._waiting.extend(sequences)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._rows or self._waiting or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
            try:
                self.step()
            except Exception as error:  # every request of the batch must hear of it, the engine lives on
                logger.exception("a decoding step failed")
                self._fail(f"the engine failed: {error}")
            if self._news:
                news, self._news = self._news, []
                self._deliver(news)

    def step(self) -> None:
        """Drop the cancelled, admit the waiting, decode one token in every row that was there before."""
        for row in reversed(range(len(self._rows))):
            if self._rows[row].cancelled:
                self._leave(row)
        if self._rows:
            self._advance(0, self._model.decode([one.tokens[-1] for one in self._rows]))
        self._admitted = self._admit()
        while self._admitted:
            first, group = len(self._rows), self._admitted.pop(0)
            self._rows += group
            logits = self._model.prefill([one.prompt for one in group], [one.adapter for one in group])
            for one in group:
                self._sampler.prepare(one)
            self._advance(first, logits)

    def _admit(self) -> list[list[Sequence]]:
        """Take from the head of the queue what fits, in prefill groups of similar length."""
        taken: list[Sequence] = []
        longest = max((one.need for one in self._rows), default=0)
        with self._wake:
            while self._waiting:
                one = self._waiting[0]
                rows = len(self._rows) + len(taken) + 1
                if one.cancelled:
                    self._waiting.popleft()
                    continue
                longest = max(longest, one.need)
                if rows > self._most_rows or (rows > 1 and rows * longest > self._budget):
                    break
                taken.append(self._waiting.popleft())
        groups: list[list[Sequence]] = []
        for one in sorted(taken, key=lambda one: len(one.prompt)):
            padded = len(one.prompt) * (len(groups[-1]) + 1) if groups else 0
            if groups and padded <= PREFILL_TOKENS and len(one.prompt) <= 2 * len(groups[-1][0].prompt) + 16:
                groups[-1].append(one)
            else:
                groups.append([one])
        return groups

    def _advance(self, first: int, logits: Any) -> None:
        """Draw a token for the rows from `first` on, tell their receivers, and let the finished ones leave."""
        rows = self._rows[first:]
        # From the last row on: a leaving row is replaced by one that has had its turn.
        for number, token in reversed(list(enumerate(self._sampler.draw(logits, rows)))):
            one = rows[number]
            finish, error = self._take(one, token)
            text = ""
            if finish not in {"stop", "error"}:
                text = one.text.push(token, may_stop=len(one.tokens) > one.settings.min_tokens)
                if one.text.ended or (one.structured and one.matchers[0].is_stopped()):
                    finish = "stop"
            if finish:
                text += one.text.finish()
                finish = "stop" if one.text.ended else finish
                self._leave(first + number, spoiled=token == NO_TOKEN)
            if finish or text:
                self._news.append(News(one, text, finish, error))

    def _take(self, one: Sequence, token: int) -> tuple[str, str]:
        """Append a token to a sequence; return (finish reason or empty, error). An ending token is no text."""
        if token == NO_TOKEN:
            bound = one.matchers or one.rules
            return "error", "no token satisfies the constraints" if bound else "the logits are not finite"
        one.tokens.append(token)
        self.generated += 1
        if one.rules is not None:
            one.rules.count(token)
        ends = token in self._eos
        if token in one.settings.stop_token_ids or (ends and (one.structured or not one.settings.ignore_eos)):
            return "stop", ""
        for matcher in one.matchers:
            if not ends and not matcher.consume_token(token):
                return "error", f"the constraint failed: {matcher.get_error()}"
        return ("length", "") if len(one.tokens) >= one.limit else ("", "")

    def _leave(self, row: int, *, spoiled: bool = False) -> None:
        self._model.drop(row, spoiled=spoiled)
        last = self._rows.pop()
        if row < len(self._rows):
            self._rows[row] = last

    def _fail(self, reason: str) -> None:
        lost = [*self._rows, *(one for group in self._admitted for one in group)]
        self._news += [News(one, "", "error", reason) for one in lost]
        self._rows, self._admitted = [], []
        self._model.forget()
