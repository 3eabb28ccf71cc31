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

from pruning.methods.edge_pruning.gates import HIGH, LOW, TEMPERATURE

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
    """`expected_gate` as a table, for many look-ups."""

    def __init__(self) -> None:
        self.low, self.high, self.n = -16.0, 16.0, 4096
        grid = torch.linspace(self.low, self.high, self.n, dtype=torch.float64)
        self.table = expected_gate(grid).float()

    def __call__(self, log_alpha: Float[Tensor, " gate"]) -> Float[Tensor, " gate"]:
        """Expected gates, linearly interpolated."""
        return self.with_slope(log_alpha)[0]

    def with_slope(self, log_alpha: Float[Tensor, " gate"]) -> tuple[Float[Tensor, " gate"], Float[Tensor, " gate"]]:
        """Expected gates, linearly interpolated, and the slope of that line in α."""
        per_unit = (self.n - 1) / (self.high - self.low)
        place = ((log_alpha - self.low) * per_unit).clamp_(0, self.n - 1.001)
        index = place.long()
        below = self.table[index]
        rise = self.table[index + 1] - below
        return torch.addcmul(below, rise, place - index), rise * per_unit


_SHIFT_ENOUGH = 1e-6
_TURNS = 48


@torch.no_grad()
def shift_for_budget(
    log_alpha: Float[Tensor, " gate"], weights: Float[Tensor, " gate"], kept: float, expected: ExpectedGate
) -> Float[Tensor, ""]:
    """The shift b at which the expected number of kept edges is `kept`.

    Newton's method from 0, and halving wherever it would leave the bracket.

    Args:
        log_alpha: The gates' α.
        weights: Edges a gate.
        kept: How many edges are to be kept, in expectation.
        expected: The table.

    Returns:
        The shift, as near as float32 tells.
    """
    low, high = log_alpha.min() - 16, log_alpha.max() + 16
    shift = torch.zeros_like(low).clamp(low, high)
    for _ in range(_TURNS):
        gates, slopes = expected.with_slope(log_alpha - shift)
        gap, slope = (gates * weights).sum() - kept, (slopes * weights).sum()
        low, high = torch.where(gap > 0, shift, low), torch.where(gap > 0, high, shift)
        after = shift + gap / slope.clamp(min=1e-12)
        after = torch.where((after > low) & (after < high), after, (low + high) / 2)
        moved, shift = (after - shift).abs(), after
        if moved < _SHIFT_ENOUGH:
            break
    return shift


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
