"""Uniform gradient sampling: each edge's mean gate θ learnt from gates that are 0, 1, or drawn evenly between.

Every edge has a mean θ = σ(p), and a *window* of width `w = θ(1 − θ)`. With `u` drawn evenly from 0 to 1 its gate is

    α = 1 − clamp((u − θ) / w + ½, 0, 1)

so 1 for u < θ − w/2, 0 for u > θ + w/2, and spread evenly over 0 … 1 inside the window; its mean is θ. The gradient in
θ is the loss's gradient in α, averaged over the draws that fell *inside the window* (published as `∂α/∂θ = 1` inside
and 0 outside, times draws / draws inside, with w held fixed). That is unbiased: moving θ at a fixed window moves weight
from gate 0 to gate 1, and `L(1) − L(0) = ∫ L'(α) dα` is the mean of L' inside. Gates at 0 or 1 cost no gradient.

What is minimised is the objective plus `λ Σ_e θ_e + ν Σ_n tanh(2 d_n / s) · s / 2` with d_n the sum of θ over all edges
into and out of a head or an MLP, `s = layers × heads`, and `ν = min(λ / 2, 0.0002)`: the last part favours nodes that
lose all of their edges. AdamW with β = (0.9, 0.995) and no decay; gradients are clipped at norm 5.

Where this differs from the published code (maxtli/optimalablation): each draw of gates is run with all prompts of a
batch, there each prompt has draws of its own; the first position is ablated as all others are; edges that dangle in a
draw are not taken out of it first, because they change nothing here.

References:
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import Share
from pruning.execution.finite import require_numbers
from pruning.execution.probe import Probe
from pruning.methods.answers import ComparesWithModel
from pruning.methods.method import RANKING_ABLATIONS
from pruning.prompts.batch_order import BatchOrder

_MOST_NODE_PENALTY = 2e-4
_CLIP = 5.0


@dataclass(frozen=True, kw_only=True)
class UGS(ComparesWithModel):
    """Uniform gradient sampling (Li and Janson 2024), with its published settings.

    Attributes:
        penalty: λ, what an edge costs in units of the objective.
        steps: How many batches. The published number takes hours on a laptop; 200 give a first ranking.
        prompts: Prompts a batch.
        draws: Draws of all gates a batch, each run with all of its prompts.
        learning_rate: By default the published one: 0.15 for λ up to 0.0001, 0.1 up to 0.0005, 0.05 above, all a
            fifth of that under counterfactual ablation.
        start: The p = log(θ / (1 − θ)) to begin with.

    Raises:
        ConfigurationError: A number that is out of its range.

    Examples:
        >>> UGS(penalty=0.0003, steps=200).rate("counterfactual")
        0.02
    """

    name: ClassVar[str] = "ugs"
    summary: ClassVar[str] = "uniform gradient sampling: mean gates learnt under a price per edge"
    source: ClassVar[str] = "Li, Janson 2024, Optimal ablation for interpretability"
    direction = "between"
    cost: ClassVar[str] = "steps × draws forward and backward passes over the prompts of a batch"
    estimates = "mean θ of the edge's gate, from 0 to 1"
    ablations = RANKING_ABLATIONS

    penalty: float = 1e-3
    steps: int = 3000
    prompts: int = 5
    draws: int = 12
    learning_rate: float | None = None
    start: float = 1.0

    def __post_init__(self) -> None:
        for field in ("steps", "prompts", "draws"):
            if getattr(self, field) < 1:
                raise ConfigurationError(f"method 'ugs': {field} must be 1 or more; got {getattr(self, field)}")
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise ConfigurationError(f"method 'ugs': penalty must be a number of at least 0; got {self.penalty}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigurationError(f"method 'ugs': learning_rate must be above 0; got {self.learning_rate}")

    def rate(self, ablation: str) -> float:
        """The learning rate.

        Args:
            ablation: What cut edges carry.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        published = 0.15 if self.penalty <= 1e-4 else 0.1 if self.penalty <= 5e-4 else 0.05
        return published / 5 if ablation == "counterfactual" else published

    @with_gradients
    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Learn the mean gate of every edge.

        Args:
            probe: The model and the prompts.
            seed: Of the order of prompts and the gates drawn.

        Returns:
            θ of every edge.
        """
        universe, runner = probe.compiled.universe, probe.runner
        generator = torch.Generator().manual_seed(seed)
        order = BatchOrder(probe.frozen.by_length, self.prompts, np.random.default_rng(seed))
        nodes = _Nodes(universe)
        p = torch.full((universe.n_edges,), float(self.start), requires_grad=True)
        optimiser = torch.optim.AdamW([p], lr=self.rate(probe.ablation), betas=(0.9, 0.995), weight_decay=0.0)
        for _ in range(self.steps):
            theta = torch.sigmoid(p)
            prompts = order.next()
            drawn = [draw_gates(theta.detach(), generator) for _ in range(self.draws)]
            ran = runner.run([Share(prompts=prompts, gates=gates, wanted=inside) for gates, inside in drawn])
            # Each draw's gradient comes as its share of the batch's mean.
            total = torch.stack([gradient.to("cpu") for gradient in ran.gradients]).sum(0) * self.draws
            require_numbers(total, probe.frozen, "gate gradients")
            n_inside = torch.stack([inside for _, inside in drawn]).sum(0)
            price = self.penalty * theta.sum() + min(self.penalty / 2, _MOST_NODE_PENALTY) * nodes.price(theta)
            optimiser.zero_grad()
            torch.autograd.backward([theta, price], [total / n_inside.clamp(min=1), None])
            torch.nn.utils.clip_grad_norm_([p], _CLIP)
            optimiser.step()
        return torch.sigmoid(p.detach()).double().numpy()


def draw_gates(
    theta: Float[Tensor, " edge"], generator: torch.Generator
) -> tuple[Float[Tensor, " edge"], Bool[Tensor, " edge"]]:
    """Draw gates with given means.

    Args:
        theta: Their means.
        generator: Source of randomness.

    Returns:
        Gates in [0, 1], and which of them fell inside their window.

    Examples:
        >>> gates, inside = draw_gates(torch.tensor([0.0, 0.5, 1.0]), torch.Generator().manual_seed(0))
        >>> gates[[0, 2]].tolist(), inside[[0, 2]].tolist()
        ([0.0, 1.0], [False, False])
    """
    u = torch.rand(theta.shape, generator=generator, dtype=theta.dtype)
    width = (theta * (1 - theta)).clamp(min=torch.finfo(theta.dtype).tiny)
    # u is never 1, and is 0 as often as any other number: at the ends nothing is left to chance.
    gates = torch.where(theta > 0, 1 - ((u - theta) / width + 0.5).clamp(0, 1), 0.0)
    return gates, (gates > 0) & (gates < 1)


class _Nodes:
    """What heads and MLPs cost by the edges at them.

    Args:
        universe: Which edges there are.
    """

    def __init__(self, universe: Universe) -> None:
        self.scale = float(universe.n_layers * universe.n_heads)
        self.n_writers = universe.n_writers
        self.is_node = torch.from_numpy(~universe.reads_nothing)
        writers, readers = universe.endpoints(np.arange(universe.n_edges))
        self.writer_of_edge = torch.from_numpy(writers)
        # A grouped key or value reader is into every head that it serves.
        edges, into = [], []
        for block in universe.blocks:
            for place, own in enumerate(block.readers_of):
                for reader in np.unique(own):
                    found = np.flatnonzero(readers == block.first_reader + reader)
                    edges.append(found)
                    into.append(np.full(len(found), block.first_written + place))
        self.edge, self.into = (torch.from_numpy(np.concatenate(parts)) for parts in (edges, into))

    def price(self, theta: Float[Tensor, " edge"]) -> Float[Tensor, ""]:
        """`Σ_n tanh(2 d_n / s) · s / 2` over heads and MLPs, d_n the sum of θ at a node."""
        sums = theta.new_zeros(self.n_writers).index_add(0, self.writer_of_edge, theta)
        sums = sums.index_add(0, self.into, theta[self.edge])
        return (torch.tanh(2 * sums[self.is_node] / self.scale) * self.scale / 2).sum()
