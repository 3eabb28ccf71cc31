"""Nested budgets: one training that ranks the edges for all sparsities at once.

A training for one sparsity says little of others: its gates are settled around one number of edges. Here every step
draws how many edges are kept, log-uniformly between two sparsities, and keeps the best of one ranking, so that each
edge is judged by all the circuits that it would be in. The edges with the n largest scores are then the circuit of n
edges, for any n in that range.

The gates are not drawn, they follow from the scores α and the number k of edges to keep:

    z_e = clamp(1.2·σ((α_e − b) / T) − 0.1, 0, 1),    b such that Σ_e z_e = k,

the hard-concrete gate at its median (`pruning.methods.edge_pruning.gates`): gates well above b are 1, gates well
below it are exactly 0, and what they would let through is not run. T falls from step to step (recipe `sharpen`), so
that what is trained comes close to the circuits that are kept, whose gates are all 0 or 1. b depends on all α, so the
gradient in α of what has gradient g in the gates is, with p_e = ∂z_e/∂α_e and w_e the edges per gate,

    ∂L/∂α_e = p_e·(g_e − w_e·Σ p·g / Σ w·p).

The idea of ranking by a relaxed top-k under random budgets is that of Arora et al. 2026, "Matryoshka attribution:
Learning to attribute language model outputs to representations and weights" (arXiv 2609.25518), with a sigmoid that
is nowhere 0, one budget per step, one prompt, and a start from zero. The start from gate importance, gates that
reach 0 and 1, several budgets per step, and averaged scores are ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.methods.edge_pruning.gates import HIGH, LOW, TEMPERATURE, Gates, GateSample

TOWARDS_SMALL = 1.6
"""Budgets are `low·(high / low)^(u^TOWARDS_SMALL)`, u uniform: small ones are harder to find, and cheaper to run."""
_TURNS = 60
_REACH = 8.0
"""In temperatures: a gate this far from b is 0 or 1."""


def budget_at(place: float, *, sparsest: float, densest: float) -> float:
    """The budget at a place between both ends, as a share of all edges.

    Args:
        place: From 0, the smallest budget, to 1, the largest; uniformly drawn in training.
        sparsest: The sparsity of the smallest.
        densest: The sparsity of the largest.

    Examples:
        >>> round(budget_at(0, sparsest=0.99, densest=0.9), 6), round(budget_at(1, sparsest=0.99, densest=0.9), 6)
        (0.01, 0.1)
    """
    low, high = math.log(1 - sparsest), math.log(1 - densest)
    return math.exp(low + (high - low) * place**TOWARDS_SMALL)


def drawn_budgets(n: int, *, sparsest: float, densest: float, n_edges: int, generator: torch.Generator) -> list[float]:
    """Numbers of edges to keep: their logarithm lies between both ends, nearer to the smaller (`TOWARDS_SMALL`).

    One number is drawn; the others follow it at equal distances, so that the budgets of one step lie apart.

    Args:
        n: How many.
        sparsest: The sparsity of the smallest.
        densest: The sparsity of the largest.
        n_edges: Edges of the universe.
        generator: Source of randomness.

    Returns:
        As many, between `(1 − sparsest)·n_edges` and `(1 − densest)·n_edges`.

    Examples:
        >>> drawn = drawn_budgets(
        ...     2, sparsest=0.99, densest=0.9, n_edges=1000, generator=torch.Generator().manual_seed(0)
        ... )
        >>> all(10 <= k <= 100 for k in drawn), len(drawn)
        (True, 2)
    """
    first = float(torch.rand((), generator=generator, dtype=torch.float64))
    places = ((first + index / n) % 1.0 for index in range(n))
    return [n_edges * budget_at(place, sparsest=sparsest, densest=densest) for place in places]


def keeping(gates: Gates, kept: float, weights: Float[Tensor, " gate"], temperature: float = TEMPERATURE) -> GateSample:
    """Gates that keep so many edges; nothing is drawn.

    Args:
        gates: The scores.
        kept: The sum over all edges, frozen ones included.
        weights: Edges per gate.
        temperature: Over how wide a range of scores gates are neither 0 nor 1.
    """
    gate_map = gates.gate_map
    edges = gates.expand(top_k_gates(gates.log_alpha, weights, kept - gate_map.n_frozen, temperature))
    with torch.no_grad():
        wanted = (edges > 0) & (edges < 1)
    sparsity = 1 - edges.sum() / gate_map.universe.n_edges
    return GateSample(edges=edges, wanted=wanted, sparsity=sparsity, writer_sparsity=None)


def top_k_gates(
    log_alpha: Float[Tensor, " gate"], weights: Float[Tensor, " gate"], kept: float, temperature: float = TEMPERATURE
) -> Float[Tensor, " gate"]:
    """Gates that follow from scores and the number of edges to keep.

    Args:
        log_alpha: The scores α; the gates are differentiable in them, the shift included.
        weights: Edges per gate.
        kept: The sum of all gates, each as often as it has edges.
        temperature: Over how wide a range of scores gates are neither 0 nor 1.

    Returns:
        Gates in [0, 1].

    Examples:
        >>> gates = top_k_gates(torch.tensor([9.0, 2.0, 1.0, -9.0]), torch.ones(4), 2.0)
        >>> [round(gate, 3) for gate in gates.tolist()], round(gates.sum().item(), 4)
        ([1.0, 0.715, 0.285, 0.0], 2.0)
    """
    return _TopK.apply(log_alpha / temperature, weights, kept)


def _gates(scaled: Tensor, shift: Tensor) -> Tensor:
    return (torch.sigmoid(scaled - shift) * (HIGH - LOW) + LOW).clamp(0, 1)


def _shift(scaled: Tensor, weights: Tensor, kept: float) -> Tensor:
    """Where the gates sum up to `kept`, by bisection."""
    low, high = scaled.min() - _REACH, scaled.max() + _REACH
    for _ in range(_TURNS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if (_gates(scaled, middle) * weights).sum() > kept:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class _TopK(torch.autograd.Function):
    """The gates of scores in temperatures, and their gradient through the shift that all of them share."""

    @staticmethod
    def forward(ctx: Any, scaled: Tensor, weights: Tensor, kept: float) -> Tensor:
        shift = _shift(scaled, weights, kept)
        gates = _gates(scaled, shift)
        share = torch.sigmoid(scaled - shift)
        slopes = share * (1 - share) * (HIGH - LOW)
        ctx.save_for_backward(torch.where((gates > 0) & (gates < 1), slopes, 0.0), weights)
        return gates

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = grad
        slopes, weights = ctx.saved_tensors
        common = (slopes * gradient).sum() / (slopes * weights).sum().clamp(min=1e-12)
        return slopes * (gradient - weights * common), None, None
