"""From a batch of logits to one token per row, every row by its own settings, constraints and random generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policies.engines.constraints import Constraints
from policies.engines.decoding import Sequence as Decoding

NO_TOKEN = -1
"""Stands for a row in which nothing may follow: constraints that contradict one another, or logits not finite."""


class LogitRules:
    """What one sequence changes in its own logits: penalties, biases, allowed tokens, no end before `min_tokens`."""

    def __init__(self, sequence: Decoding, vocab_size: int, eos: Sequence[int], device: Any) -> None:
        import torch

        wanted = sequence.settings
        self._min = 0 if sequence.structured else wanted.min_tokens  # a structure ends where it ends
        ends = set(wanted.stop_token_ids) | (set() if wanted.ignore_eos else set(eos))
        self._ends = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self._biased = torch.tensor([token for token, _ in wanted.logit_bias], dtype=torch.long, device=device)
        self._bias = torch.tensor([value for _, value in wanted.logit_bias], dtype=torch.float32, device=device)
        self._others: Any = None
        if wanted.allowed_token_ids:
            self._others = torch.ones(vocab_size, dtype=torch.bool, device=device)
            self._others[list(wanted.allowed_token_ids)] = False
        self._penalised = bool(wanted.presence_penalty or wanted.frequency_penalty or wanted.repetition_penalty != 1)
        self._counts: Any = None
        self._seen: Any = None
        if self._penalised:
            self._counts = torch.zeros(vocab_size, dtype=torch.float32, device=device)
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[sequence.prompt] = True
        self._wanted = wanted

    @staticmethod
    def needed(sequence: Decoding) -> bool:
        """Say whether a sequence changes its logits at all."""
        one = sequence.settings
        penalised = one.presence_penalty or one.frequency_penalty or one.repetition_penalty != 1
        return bool(penalised or one.logit_bias or one.allowed_token_ids or one.min_tokens)

    def count(self, token: int) -> None:
        """Remember a generated token for the penalties."""
        if self._penalised:
            self._counts[token] += 1
            self._seen[token] = True

    def apply(self, row: Any, generated: int) -> None:
        """Change `row` (float32 [vocab_size]) in place; `generated` is how many tokens there are so far."""
        import torch

        wanted = self._wanted
        if self._penalised:
            if wanted.repetition_penalty != 1:
                scaled = torch.where(row > 0, row / wanted.repetition_penalty, row * wanted.repetition_penalty)
                row.copy_(torch.where(self._seen, scaled, row))
            row -= wanted.frequency_penalty * self._counts + wanted.presence_penalty * (self._counts > 0)
        if self._biased.numel():
            row.index_add_(0, self._biased, self._bias)
        if self._others is not None:
            row.masked_fill_(self._others, float("-inf"))
        if generated < self._min and self._ends.numel():
            row[self._ends] = float("-inf")


class Sampler:
    """Draws the next token of every row. `eos` ends a text unless the request ignores it."""

    def __init__(self, vocab_size: int, eos: Sequence[int], constraints: Constraints, device: Any) -> None:
        self._vocab_size, self._eos, self._constraints, self._device = vocab_size, tuple(eos), constraints, device

    def prepare(self, sequence: Decoding) -> None:
        """Build what a sequence needs before its first token."""
        if LogitRules.needed(sequence):
            sequence.rules = LogitRules(sequence, self._vocab_size, self._eos, self._device)

    def draw(self, logits: Any, rows: Sequence[Decoding]) -> list[int]:
        """Return a token per row of `logits` [rows, vocab_size], NO_TOKEN where none is possible."""
        import torch

        with torch.inference_mode():
            return self._draw(logits.float(), rows)

    def _draw(self, logits: Any, rows: Sequence[Decoding]) -> list[int]:
        import torch

        for number, one in enumerate(rows):
            if one.rules is not None:
                one.rules.apply(logits[number], len(one.tokens))
        bound = [number for number, one in enumerate(rows) if one.matchers]
        if bound:
            allowed = torch.from_numpy(self._constraints.allowed([rows[number] for number in bound])).to(self._device)
            index = torch.tensor(bound, device=self._device)
            logits[index] = logits[index].masked_fill(~allowed, float("-inf"))
        best = logits.max(dim=-1)
        tokens: list[int] = best.indices.tolist()
        for number, highest in enumerate(best.values.tolist()):
            if not -1e30 < highest < 1e30:  # false for NaN too
                tokens[number] = NO_TOKEN
        drawn = [n for n, one in enumerate(rows) if one.settings.temperature > 0 and tokens[n] != NO_TOKEN]
        if drawn:
            chosen = logits if len(drawn) == len(rows) else logits[torch.tensor(drawn, device=self._device)]
            for number, token in zip(drawn, _sampled(chosen, [rows[number] for number in drawn]), strict=True):
                tokens[number] = token
        self._weigh(logits, tokens, rows)
        return tokens

    def _weigh(self, logits: Any, tokens: Sequence[int], rows: Sequence[Decoding]) -> None:
        """Add the log probability of each token drawn to its sequence: under its rules, at temperature 1."""
        import torch

        drawn = torch.tensor([max(token, 0) for token in tokens], device=self._device)[:, None]
        weights = logits.gather(1, drawn)[:, 0] - logits.logsumexp(dim=-1)
        for one, token, weight in zip(rows, tokens, weights.tolist(), strict=True):
            if token != NO_TOKEN:
                one.logprob += weight


def _sampled(logits: Any, rows: Sequence[Decoding]) -> list[int]:
    """Draw by inverse transform: one uniform number from each row's own generator, so neighbours change nothing."""
    import torch

    def column(values: list[float]) -> Any:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    settings = [one.settings for one in rows]
    scaled = logits / column([one.temperature for one in settings]).float()
    scaled = _filtered(scaled, rows)
    mass = torch.softmax(scaled, dim=-1, dtype=torch.float64).cumsum(dim=-1)
    total = mass[:, -1:]
    point = column([one.rng.random() for one in rows]) * total
    # Rounding may lift the point to the total, past the last token with any mass.
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    tokens: list[int] = torch.searchsorted(mass, point, right=True)[:, 0].tolist()
    return tokens


def _filtered(scaled: Any, rows: Sequence[Decoding]) -> Any:
    """Keep what is above `min_p` of the best, of that the `top_k` best, of those the fewest holding `top_p`."""
    import torch

    settings = [one.settings for one in rows]
    floor = float("-inf")
    if any(one.min_p for one in settings):
        low = torch.tensor([one.min_p for one in settings], device=scaled.device)[:, None]
        scaled = scaled.masked_fill(scaled < scaled.max(dim=-1, keepdim=True).values + low.log(), floor)
    if not any(one.top_k or one.top_p < 1 for one in settings):
        return scaled
    size = scaled.shape[-1]
    ordered, order = scaled.sort(dim=-1, descending=True)
    rank = torch.arange(size, device=scaled.device)[None]
    most = torch.tensor([min(one.top_k or size, size) for one in settings], device=scaled.device)[:, None]
    ordered = ordered.masked_fill(rank >= most, floor)
    share = torch.tensor([one.top_p for one in settings], device=scaled.device)[:, None]
    mass = torch.softmax(ordered, dim=-1)
    before = mass.cumsum(dim=-1) - mass
    ordered = ordered.masked_fill((before >= share) & (rank > 0) & (share < 1), floor)
    return torch.full_like(scaled, floor).scatter(-1, order, ordered)
