"""What the cache of frozen runs holds, and what filling it takes."""

from __future__ import annotations

from dataclasses import dataclass

from circuitgraph.memory.numbers import values_a_token
from circuitgraph.memory.step import StepMemory

_FILLED_AT_ONCE = 16  # prompts, see `pruning.frozen.runs.FrozenRuns`


@dataclass(frozen=True, kw_only=True)
class CacheMemory:
    """What is kept of frozen runs, and what making them takes, in bytes."""

    step: StepMemory
    n_prompts: int
    budget: int
    top_k: int | None
    ablation: str

    @property
    def _teacher(self) -> int:
        """A prompt's share of the full model's outputs."""
        step, top = self.step, self.top_k
        if top is None or top >= step.shape.d_vocab:
            return step.n_asked * step.shape.d_vocab * step.b
        # An id and a log-probability each, and the log of what is left.
        return step.n_asked * (top * (4 + step.wide) + step.wide)

    def _values(self, *, short: bool = False) -> int:
        """A token's ablation values."""
        return values_a_token(self.step.shape, short=short) * self.step.b

    @property
    def _fits(self) -> bool:
        return self.n_prompts * (self._teacher + self._values() * self.step.seq) <= self.budget

    @property
    def held(self) -> int:
        """What is kept of all prompts; a batch's values where it is made whole each step."""
        if not self.step.counterfactual:
            return min(self.budget, self.n_prompts * self._teacher)
        prompt = self._teacher + self._values(short=not self._fits) * self.step.seq
        batch = 0 if self._fits else self._values() * self.step.tokens
        return min(self.budget, self.n_prompts * prompt) + batch

    @property
    def filling(self) -> int:
        """The runs that are made at once."""
        if self.ablation == "zero" or (self.step.counterfactual and not self.budget):
            return 0
        return self.step.seq * min(self.n_prompts, _FILLED_AT_ONCE) * self._values()
