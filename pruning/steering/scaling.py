"""Scalings that move a model's answer: one number per writer or per edge, learnt.

Every edge's gate is `1 + βα` under zero ablation: β = 1 is to make the right answer beat the wrong one, β = −1 the
other way round, both with the same α. What is minimised is, over both directions,

    softplus(∓(ℓ(right) − ℓ(wrong))) + faithfulness · KL(model ‖ steered) over all other tokens.

After each of Adam's steps, α ← sign(α)·max(|α| − rate·sparsity, 0): what has no steady reason to move stays exactly 0.
That is the proximal step of a price on |α|, in units of Adam's own steps, which all have about the length of the rate.
After Stoehr et al. 2024, "Activation scaling for steering and interpreting language models" (EMNLP Findings), whose
scalars are one per site, layer and token position and whose exact loss is not in the public text; ours are per writer
(all its edges share one) or per edge, the same at all positions, so prompts need not be aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import BatchRunner, Share
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.schedule import rate_at
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.two_answers import answer_against_wrong, require_two_answers

UNITS = ("writers", "edges")


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """How scalings are learnt.

    Attributes:
        unit: `writers`: all edges out of a writer share one number; or `edges`.
        steps: Optimiser steps.
        batch_size: Prompts per step.
        learning_rate: Adam's, falling linearly to 0.
        faithfulness: What a nat of KL over all other tokens costs.
        sparsity: How strongly α are drawn to 0, as a share of the longest step that Adam takes: from 0 to 1, where
            nothing would ever leave 0.
        strength: β in training; both signs are run.

    Raises:
        ConfigurationError: A setting makes no sense.
    """

    unit: str = "writers"
    steps: int = 150
    batch_size: int = 8
    learning_rate: float = 0.02
    faithfulness: float = 1.0
    sparsity: float = 0.5
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Check every setting."""
        if self.unit not in UNITS:
            raise ConfigurationError(f"unit must be one of {', '.join(UNITS)}; got {self.unit!r}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("learning_rate", "strength"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigurationError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("faithfulness", "sparsity"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(f"{name} must be at least 0; got {getattr(self, name)}")


DEFAULT = ScalingSettings()


@with_gradients
def learn_scalings(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    settings: ScalingSettings = DEFAULT,
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Intervention:
    """Learn by how much to turn writers or edges up or down so that an answer wins.

    Args:
        compiled: The model.
        pairs: Prompts with right and wrong answers.
        settings: How.
        seed: Of the order of prompts.
        tick: Called with steps done and in all.
        say: Called with a line when something had to change.

    Returns:
        The intervention: at strength 1 towards the right answers, at −1 towards the wrong ones.

    Raises:
        ConfigurationError: Prompts without wrong answers.
        TrainingError: Numbers are not finite.
    """
    require_two_answers(pairs)
    frozen = FrozenRuns(compiled, pairs, ablation="zero", batch_size=settings.batch_size)
    runners = [
        BatchRunner(
            compiled,
            frozen,
            answer_against_wrong(sign, faithfulness=settings.faithfulness),
            micro_batch=settings.batch_size,
            say=say,
        )  # fmt: skip
        for sign in (1.0, -1.0)
    ]
    unit_of_edge = _units(compiled, settings.unit)
    changes = torch.zeros(int(unit_of_edge.max()) + 1, requires_grad=True)
    optimiser = torch.optim.Adam([changes], lr=settings.learning_rate)
    order = BatchOrder(frozen.by_length, settings.batch_size, np.random.default_rng(seed))
    for step in range(settings.steps):
        rate = settings.learning_rate * rate_at(step, steps=settings.steps, warmup_steps=0)
        optimiser.param_groups[0]["lr"] = rate
        changes.grad = _gradient(runners, order.next(), changes.detach(), unit_of_edge, settings.strength)
        if not bool(changes.grad.isfinite().all()):
            raise TrainingError(f"step {step}: a gradient is not finite; try a lower learning rate or strength")
        optimiser.step()
        with torch.no_grad():
            changes.copy_(changes.sign() * (changes.abs() - rate * settings.sparsity).clamp(min=0))
        tick(step + 1, settings.steps)
    found = changes.detach()[unit_of_edge].double().numpy()
    return Intervention(universe=compiled.universe, changes=found)


def _units(compiled: CompiledModel, unit: str) -> Tensor:
    """Which number each edge has."""
    universe = compiled.universe
    return torch.from_numpy(universe.writer_of_edge if unit == "writers" else np.arange(universe.n_edges))


def _gradient(
    runners: list[BatchRunner],
    prompts: np.ndarray,
    changes: Float[Tensor, " unit"],
    unit_of_edge: Tensor,
    strength: float,
) -> Float[Tensor, " unit"]:
    """Of the objective, both directions added up."""
    total = torch.zeros_like(changes)
    wanted = torch.ones(len(unit_of_edge), dtype=torch.bool)
    for runner, sign in zip(runners, (1.0, -1.0), strict=True):
        gates = 1 + sign * strength * changes[unit_of_edge]
        (gradient,) = runner.run([Share(prompts=prompts, gates=gates, wanted=wanted)]).gradients
        total.index_add_(0, unit_of_edge, sign * strength * gradient.cpu().to(total.dtype))
    return total
