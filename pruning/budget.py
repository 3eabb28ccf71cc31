"""Holding the sparsity exactly at its schedule, without Lagrange multipliers.

Multipliers lag behind a short ramp: the sparsity reaches its target late, and the last steps are spent
catching up. Here all α are shifted together, by the one amount b that makes the expected number of kept
edges equal the budget, before gates are drawn:

    Σ_e E[z_e(α_e − b)] = (1 − t)·|universe|.

b depends on α, so the gradient in α of what was drawn is the gradient g in the shifted α less what b takes back:
with p_e = E[z_e] and p' its derivative, `∂L/∂α = g − p'·Σg / Σp'`. Both are found by bisection on a smooth
function of one number.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.gates import HIGH, LOW, TEMPERATURE

_NODES = 33


def expected_gate(log_alpha: Float[Tensor, " gate"]) -> Float[Tensor, " gate"]:
    """Expected value of hard-concrete gates, `E[z] = ∫₀¹ P(z > x) dx`, by the trapezoidal rule.

    The error is below 2e-4.
    """
    inside = torch.linspace(0, 1, _NODES, dtype=log_alpha.dtype, device=log_alpha.device)
    shares = (inside - LOW) / (HIGH - LOW)
    offsets = TEMPERATURE * shares.logit()
    total = torch.zeros_like(log_alpha)
    for index, offset in enumerate(offsets.tolist()):
        weight = 0.5 if index in (0, _NODES - 1) else 1.0
        total += weight * torch.sigmoid(log_alpha - offset)
    return total / (_NODES - 1)


class ExpectedGate:
    """`expected_gate` as a table, for many look-ups.

    Args:
        device: Where the look-ups happen.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.low, self.high, self.n = -16.0, 16.0, 4096
        grid = torch.linspace(self.low, self.high, self.n, dtype=torch.float64)
        self.table = expected_gate(grid).float().to(device)

    def __call__(self, log_alpha: Float[Tensor, " gate"]) -> Float[Tensor, " gate"]:
        """Expected gates, linearly interpolated."""
        place = ((log_alpha - self.low) * ((self.n - 1) / (self.high - self.low))).clamp(0, self.n - 1.001)
        left = place.floor()
        index = left.long()
        share = place - left
        return self.table[index] * (1 - share) + self.table[index + 1] * share


@torch.no_grad()
def shift_for_budget(
    log_alpha: Float[Tensor, " gate"], weights: Float[Tensor, " gate"], kept: float, expected: ExpectedGate
) -> float:
    """The shift b at which the expected number of kept edges is `kept`.

    Args:
        log_alpha: The gates' α.
        weights: Edges a gate.
        kept: How many edges are to be kept, in expectation.
        expected: The table.

    Returns:
        The shift, to 1e-4.
    """
    low = float(log_alpha.min()) - 16
    high = float(log_alpha.max()) + 16
    while high - low > 1e-4:
        middle = (low + high) / 2
        if float((expected(log_alpha - middle) * weights).sum()) > kept:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@torch.no_grad()
def project_gradient(
    gradient: Float[Tensor, " gate"],
    shifted: Float[Tensor, " gate"],
    weights: Float[Tensor, " gate"],
    expected: ExpectedGate,
) -> Float[Tensor, " gate"]:
    """The gradient along the surface on which the budget holds.

    Args:
        gradient: Of the loss in the shifted α.
        shifted: The shifted α.
        weights: Edges a gate.
        expected: The table.
    """
    step = 0.05
    slope = (expected(shifted + step) - expected(shifted - step)) * weights
    return gradient - slope * (gradient.sum() / slope.sum().clamp(min=1e-12))
