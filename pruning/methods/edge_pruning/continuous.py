"""Deterministic gates: a sigmoid that is made steeper from step to step, beside the hard-concrete ones.

    b = σ(β α),    β = sharpness^(step / (steps − 1)),    loss = objective + price · Σ_e b_e

At β = 1 all gates are open in part and every α has a gradient; at the last step's β of 200 they are as good as 0 or 1.
Nothing is drawn, so a training differs between seeds by its start and the order of prompts alone. An edge is kept if
its α is above 0 (keep rule `open`): the size follows from the price, and is not asked for.

References:
    Savarese, Silva, Maire 2020, Winning the Lottery with Continuous Sparsification (arXiv 1912.04427); as used for
    circuits in "Circuit Compositions" (arXiv 2410.01434, ACL 2025).
"""

from __future__ import annotations

import torch

from pruning.methods.edge_pruning.gates import Gates, GateSample

CLOSED = 1e-6
"""Gates this near to 0 or to 1 are there: their gradient is as small, and what is closed need not run."""


def sharpness_at(step: int, *, steps: int, sharpness: float) -> float:
    """How steep gates are at a step.

    Args:
        step: The step, from 0.
        steps: How many there are.
        sharpness: Of the last one.

    Examples:
        >>> [round(sharpness_at(step, steps=3, sharpness=100.0), 6) for step in range(3)]
        [1.0, 10.0, 100.0]
    """
    return sharpness ** (step / max(1, steps - 1))


def opened(gates: Gates, beta: float) -> GateSample:
    """The gates as they are at a steepness, differentiable in α.

    Args:
        gates: The gates, without writer gates.
        beta: The steepness.
    """
    open_share = torch.sigmoid(beta * gates.log_alpha)
    inside = (open_share > CLOSED) & (open_share < 1 - CLOSED)
    edges = gates.expand(torch.where(inside, open_share, open_share.detach().round()))
    with torch.no_grad():
        wanted = (edges > 0) & (edges < 1)
    # The price is on gates that are not rounded: what is as good as open still pays.
    sparsity = 1 - gates.expand(open_share).mean()
    return GateSample(edges=edges, wanted=wanted, sparsity=sparsity, writer_sparsity=None)
