"""Hard-concrete gates: random masks that are exactly 0 or 1 most of the time, and differentiable.

The distribution is that of Louizos, Welling and Kingma (2018), "Learning Sparse Neural Networks through L0
Regularization": `s = σ((log u − log(1 − u) + α) / τ)`, `z = clamp(s·(r − l) + l, 0, 1)`, with the published
τ = 2/3, l = −0.1, r = 1.1. A clamped gate has no gradient, which is what makes the masked pass cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.graph.gate_map import GateMap

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
EPSILON = 1e-6
LIKELY = 1e-3
"""The probability of being open from which a gate counts as likely to be."""


def sample_hard_concrete(log_alpha: Float[Tensor, " gate"], generator: torch.Generator) -> Float[Tensor, " gate"]:
    """Draw gates.

    Args:
        log_alpha: The location α of every gate.
        generator: Source of randomness.

    Returns:
        Gates in [0, 1], differentiable in `log_alpha`.
    """
    noise = torch.rand(log_alpha.shape, generator=generator, dtype=log_alpha.dtype).clamp(EPSILON, 1 - EPSILON)
    stretched = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def probability_nonzero(log_alpha: Float[Tensor, " gate"]) -> Float[Tensor, " gate"]:
    """Probability that a gate is not exactly 0.

    Examples:
        >>> round(probability_nonzero(torch.tensor([0.0])).item(), 4)
        0.8318
    """
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def probability_one(log_alpha: Float[Tensor, " gate"]) -> Float[Tensor, " gate"]:
    """Probability that a gate is exactly 1."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log((1 - LOW) / (HIGH - 1)))


def soft_mask(log_alpha: Float[Tensor, " gate"]) -> Float[Tensor, " gate"]:
    """The deterministic gates of the published evaluation: `σ(0.8 α / τ)`, its expected zeros set to 0.

    The expected number of zeros is `Σ P(z = 0)`; that many gates, the lowest, become 0.
    """
    gates = torch.sigmoid(0.8 * log_alpha / TEMPERATURE)
    zeros = round(float((1 - probability_nonzero(log_alpha)).sum()))
    if zeros:
        lowest = torch.argsort(gates, stable=True)[:zeros]
        gates = gates.index_fill(0, lowest, 0.0)
    return gates


@dataclass(frozen=True, kw_only=True)
class GateSample:
    """One draw of all gates.

    Attributes:
        edges: A gate an edge of the universe, writer gates multiplied in.
        wanted: Gates whose gradient is not 0.
        sparsity: `1 − Σ edges / |universe|`, differentiable.
        writer_sparsity: The writers' own, or None without writer gates.
    """

    edges: Float[Tensor, " edge"]
    wanted: Bool[Tensor, " edge"]
    sparsity: Float[Tensor, ""]
    writer_sparsity: Float[Tensor, ""] | None

    @property
    def undecided(self) -> int:
        """How many gates are strictly between 0 and 1."""
        return int(self.wanted.sum())


class Gates:
    """The trainable gates of a graph: one α a parameter of its gate map, and optionally one a writer.

    They lie on the host, whatever the model lies on: a pass is planned there from the gates drawn, and they are few
    beside a model's numbers.

    Args:
        gate_map: Which parameter each edge has.
        init_mean: Mean of the α to start from.
        init_std: Their standard deviation.
        writers: Whether writers have gates of their own; an edge is then kept if both it and its writer are.
        generator: Source of randomness for the start.
    """

    def __init__(
        self,
        gate_map: GateMap,
        *,
        init_mean: float,
        init_std: float,
        writers: bool = False,
        generator: torch.Generator,
    ) -> None:
        def start(n: int) -> Tensor:
            values = torch.randn(n, generator=generator) * init_std + init_mean
            return values.requires_grad_()

        self.gate_map = gate_map
        self.log_alpha = start(gate_map.n_parameters)
        self.writer_log_alpha = start(gate_map.universe.n_writers) if writers else None
        codes = gate_map.parameter_of_edge.astype(np.int64)
        self._identity = gate_map.n_parameters == len(codes) and bool((codes == np.arange(len(codes))).all())
        # Removed (-1) and frozen (-2) edges look up a 0 and a 1 put behind the parameters.
        lookup = np.where(codes >= 0, codes, np.where(codes == -1, gate_map.n_parameters, gate_map.n_parameters + 1))
        self._lookup = torch.from_numpy(lookup)
        self._writer_of_edge = torch.from_numpy(gate_map.universe.writer_of_edge) if writers else None

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser trains."""
        return [self.log_alpha] + ([] if self.writer_log_alpha is None else [self.writer_log_alpha])

    @torch.no_grad()
    def start_from(self, importance: Float[Tensor, " edge"], *, mean: float, spread: float) -> None:
        """Set α by how much each edge matters: `mean + spread · z`, z the standardised logarithm.

        Args:
            importance: Not negative, on any device; tied edges add up.
            mean: Mean of the α.
            spread: Their standard deviation.
        """
        importance = importance.to("cpu")
        codes = torch.tensor(self.gate_map.parameter_of_edge, dtype=torch.long)
        trained = codes >= 0
        total = torch.zeros_like(self.log_alpha)
        total.index_add_(0, codes[trained], importance[trained].to(total.dtype))
        smallest = total[total > 0].min() if bool((total > 0).any()) else torch.ones_like(total[0])
        order = total.clamp(min=smallest).log()
        self.log_alpha.copy_(mean + spread * (order - order.mean()) / order.std(correction=0).clamp(min=1e-6))

    def expand(self, values: Float[Tensor, " parameter"]) -> Float[Tensor, " edge"]:
        """Give every edge the value of its parameter, removed edges 0 and frozen ones 1."""
        if self._identity:
            return values
        return torch.cat([values, values.new_tensor([0.0, 1.0])])[self._lookup]

    def sample(self, generator: torch.Generator, *, shift: float = 0.0) -> GateSample:
        """Draw all gates.

        Args:
            generator: Source of randomness.
            shift: Subtracted from every edge's α first (see `pruning.methods.edge_pruning.budget`).
        """
        edges = self.expand(sample_hard_concrete(self.log_alpha - shift, generator))
        writer_sparsity = None
        if self.writer_log_alpha is not None and self._writer_of_edge is not None:
            writers = sample_hard_concrete(self.writer_log_alpha, generator)
            writer_sparsity = 1 - writers.mean()
            edges = edges * writers[self._writer_of_edge]
        with torch.no_grad():
            wanted = (edges > 0) & (edges < 1)
        return GateSample(
            edges=edges,
            wanted=wanted,
            sparsity=1 - edges.sum() / len(self._lookup),
            writer_sparsity=writer_sparsity,
        )

    @torch.no_grad()
    def scores(self) -> Float[Tensor, " edge"]:
        """A score an edge: its α; with writer gates the smaller of its own and its writer's; ±inf where fixed."""
        ends = self.log_alpha.new_tensor([-math.inf, math.inf])
        scores = torch.cat([self.log_alpha, ends])[self._lookup]
        if self.writer_log_alpha is not None and self._writer_of_edge is not None:
            scores = torch.minimum(scores, self.writer_log_alpha[self._writer_of_edge])
        return scores

    @torch.no_grad()
    def likely(self) -> Bool[Tensor, " edge"]:
        """Edges whose gates are open in one draw of a thousand, or more often."""
        return probability_nonzero(self.scores()) > LIKELY

    @torch.no_grad()
    def soft_edges(self) -> Float[Tensor, " edge"]:
        """The deterministic soft mask of every edge, writers multiplied in."""
        edges = self.expand(soft_mask(self.log_alpha))
        if self.writer_log_alpha is not None and self._writer_of_edge is not None:
            edges = edges * soft_mask(self.writer_log_alpha)[self._writer_of_edge]
        return edges
