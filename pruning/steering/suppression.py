"""The fewest heads whose removal turns a measure: which heads make a model prefer a wrong answer.

One number l per head; in each step a head is there or not, drawn as `l + logistic noise > 0`, and what it says is cut
where it is not (zero ablation of everything that the head writes). What is minimised is the two-way cross-entropy of
the right against the wrong answers, less what keeping heads is worth,

    softplus(−(ℓ(right) − ℓ(wrong))) − keep · mean σ(l),

so that as many heads as can be are kept while the wrong answer loses. The draw is hard in the forward pass and a
sigmoid in the backward pass (straight through). After Niu et al. 2025, "Llama See, Llama Do: A Mechanistic Perspective
on Contextual Entrainment and Distraction in LLMs" (ACL), whose code takes AdamW at a rate of 1 from l = 0. Here l
starts at `start` above 0, since half of a small model's heads cut at once leave nothing to learn from. The heads that
are cut in the end are those with l < 0, in the step that had the lowest loss on held-out prompts without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import BatchRunner, Share
from pruning.execution.objectives import logit_difference
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.schedule import rate_at
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.two_answers import answer_against_wrong, require_two_answers


@dataclass(frozen=True, kw_only=True)
class SuppressionSettings:
    """How heads are searched.

    Attributes:
        steps: Optimiser steps.
        batch_size: Prompts per step.
        learning_rate: AdamW's, falling linearly to 0.
        keep: What keeping all heads is worth, in nats of the two-way cross-entropy.
        start: Every head's number at the start.
        judged_every: Steps between two looks at the held-out prompts.

    Raises:
        ConfigurationError: A setting makes no sense.
    """

    steps: int = 100
    batch_size: int = 8
    learning_rate: float = 0.3
    keep: float = 1.0
    start: float = 2.0
    judged_every: int = 10

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in ("steps", "batch_size", "judged_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigurationError(f"learning_rate must be positive; got {self.learning_rate}")
        if not 0 <= self.keep < float("inf"):
            raise ConfigurationError(f"keep must be at least 0; got {self.keep}")


DEFAULT = SuppressionSettings()


@dataclass(frozen=True, kw_only=True, eq=False)
class Suppression:
    """Heads whose removal makes the right answer win.

    Attributes:
        heads: Their names, the surest first.
        intervention: They are cut at strength 1.
        loss: On the held-out prompts, price included.
        numbers: The number of every head at that step `[head]`; below 0 is cut.
    """

    heads: tuple[str, ...]
    intervention: Intervention
    loss: float
    numbers: Float[np.ndarray, " head"]


@with_gradients
def find_suppression(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    held_out: EncodedPairs,
    settings: SuppressionSettings = DEFAULT,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Suppression:
    """Find the fewest heads without which right answers win.

    Args:
        compiled: The model.
        pairs: Prompts with right and wrong answers.
        held_out: Others, to choose the step by.
        settings: How.
        seed: Of the draws and the order of prompts.
        tick: Called with steps done and in all.

    Returns:
        The heads.

    Raises:
        ConfigurationError: Prompts without wrong answers.
    """
    require_two_answers(pairs, "train")
    require_two_answers(held_out, "validation")
    search = _Search(compiled, pairs, settings, seed)
    judge = _Judge(compiled, held_out, settings)
    best = judge.judged(search.numbers, search.gates(search.numbers >= 0))
    for step in range(settings.steps):
        search.step(step)
        if (step + 1) % settings.judged_every == 0 or step + 1 == settings.steps:
            found = judge.judged(search.numbers, search.gates(search.numbers >= 0))
            best = min(best, found, key=lambda one: one[0])
        tick(step + 1, settings.steps)
    loss, numbers = best
    off = sorted(np.flatnonzero(numbers < 0).tolist(), key=lambda head: numbers[head])
    names = tuple(search.names[head] for head in off)
    intervention = Intervention.from_writers(compiled.universe, dict.fromkeys(names, -1.0))
    return Suppression(heads=names, intervention=intervention, loss=loss, numbers=numbers)


class _Search:
    """The numbers, and a step of them."""

    def __init__(self, compiled: CompiledModel, pairs: EncodedPairs, settings: SuppressionSettings, seed: int) -> None:
        universe = compiled.universe
        heads = np.flatnonzero(universe.writer_kinds == "head")
        self.settings, self.names = settings, tuple(universe.writers[index] for index in heads)
        place = np.full(universe.n_writers, len(heads))
        place[heads] = np.arange(len(heads))
        self.head_of_edge = torch.from_numpy(place[universe.writer_of_edge])
        """The head that an edge comes from; the number of heads for other writers."""
        self.generator = torch.Generator().manual_seed(seed)
        self.numbers = torch.full((len(heads),), settings.start)
        self.optimiser = torch.optim.AdamW([self.numbers], lr=settings.learning_rate, weight_decay=0.0)
        frozen = FrozenRuns(compiled, pairs, ablation="zero", batch_size=settings.batch_size)
        self.order = BatchOrder(frozen.by_length, settings.batch_size, np.random.default_rng(seed))
        objective = answer_against_wrong(1.0, faithfulness=0.0)
        self.runner = BatchRunner(compiled, frozen, objective, micro_batch=settings.batch_size)

    def gates(self, there: Bool[Tensor, " head"]) -> Float[Tensor, " edge"]:
        """Gates of all edges where some heads are there."""
        return torch.cat([there.float(), torch.ones(1)])[self.head_of_edge]

    def step(self, index: int) -> None:
        """Draw heads, run, and move the numbers."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate_at(index, steps=settings.steps, warmup_steps=0)
        uniform = torch.rand(self.numbers.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid(self.numbers + uniform.logit())
        wanted = self.head_of_edge < len(self.names)
        share = Share(prompts=self.order.next(), gates=self.gates(soft > 0.5), wanted=wanted)
        (of_gates,) = self.runner.run([share]).gradients
        of_heads = torch.zeros(len(self.names) + 1).index_add(0, self.head_of_edge, of_gates.cpu().float())[:-1]
        sure = torch.sigmoid(self.numbers)
        self.numbers.grad = of_heads * soft * (1 - soft) - settings.keep * sure * (1 - sure) / len(self.names)
        self.optimiser.step()


class _Judge:
    """What numbers are worth, on prompts that they were not learnt on."""

    def __init__(self, compiled: CompiledModel, pairs: EncodedPairs, settings: SuppressionSettings) -> None:
        self.compiled, self.settings = compiled, settings
        self.portions = Portions(compiled, settings.batch_size)
        self.frozen = FrozenRuns(compiled, pairs, ablation="zero", batch_size=settings.batch_size)

    @torch.no_grad()
    def judged(self, numbers: Tensor, gates: Float[Tensor, " edge"]) -> tuple[float, np.ndarray]:
        """The loss without noise, and the numbers."""
        total = 0.0
        for members in self.frozen.by_length.values():
            total += sum(self.portions.run(lambda some: self._loss(some, gates), members))
        kept = float((numbers >= 0).float().mean())
        return total / len(self.frozen.pairs) - self.settings.keep * kept, numbers.clone().numpy()

    def _loss(self, prompts: np.ndarray, gates: Float[Tensor, " edge"]) -> float:
        """The two-way cross-entropy of some prompts, of one length, added up."""
        batch = self.frozen.batch(prompts)
        logits = self.compiled.masked(gates, batch.pairs.clean, batch.values).logits
        return float(softplus(-logit_difference(logits, batch.pairs)).sum())
