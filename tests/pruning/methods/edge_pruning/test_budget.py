"""Holding the expected number of edges: against integrals by scipy and finite differences."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit, logit

from pruning.methods.edge_pruning.budget import ExpectedGate, expected_gate, project_gradient, shift_for_budget

TAU = 2 / 3


@cache
def mean_gate(alpha: float) -> float:
    """E[z] from its definition: the gate as a function of the uniform u, integrated where it is between 0 and 1."""

    def gate(u: float) -> float:
        return expit((logit(u) + alpha) / TAU) * 1.2 - 0.1

    first = expit(TAU * logit(0.1 / 1.2) - alpha)  # below, the gate is 0
    last = expit(TAU * logit(1.1 / 1.2) - alpha)  # above, it is 1
    return quad(gate, first, last, epsabs=1e-12)[0] + (1 - last)


def kept(alphas: np.ndarray, weights: np.ndarray) -> float:
    return sum(w * mean_gate(float(a)) for a, w in zip(alphas, weights, strict=True))


def exact_shift(alphas: np.ndarray, weights: np.ndarray, goal: float) -> float:
    return brentq(lambda b: kept(alphas - b, weights) - goal, -60, 60, xtol=1e-12)


ALPHAS = np.array([-3.0, -1.2, 0.0, 0.3, 0.9, 2.2, 5.0])
WEIGHTS = np.array([1.0, 3.0, 1.0, 2.0, 1.0, 4.0, 1.0])


@pytest.mark.parametrize("alpha", [-12.0, -4.0, -1.7, -0.3, 0.0, 0.123, 0.8, 2.6, 5.0, 12.0])
def test_expected_gate_is_the_integral(alpha: float) -> None:
    given = torch.tensor([alpha])
    assert expected_gate(given.double()).item() == pytest.approx(mean_gate(alpha), abs=2e-4)
    assert ExpectedGate()(given).item() == pytest.approx(mean_gate(alpha), abs=2e-4)


def test_the_table_beyond_its_ends() -> None:
    assert ExpectedGate()(torch.tensor([-1e4, -16.0, 16.0, 1e4])).tolist() == pytest.approx([0, 0, 1, 1], abs=1e-5)


@pytest.mark.parametrize("goal", [0.05, 1.0, 4.7, 9.0, 12.9])
def test_the_shift_meets_the_budget(goal: float) -> None:
    alphas, weights = torch.tensor(ALPHAS).float(), torch.tensor(WEIGHTS).float()
    shift = float(shift_for_budget(alphas, weights, goal, ExpectedGate()))
    assert kept(ALPHAS - shift, WEIGHTS) == pytest.approx(goal, abs=2e-3)
    assert shift == pytest.approx(exact_shift(ALPHAS, WEIGHTS, goal), abs=0.02)


def test_a_budget_out_of_reach_opens_or_closes_everything() -> None:
    alphas, weights = torch.tensor(ALPHAS).float(), torch.tensor(WEIGHTS).float()
    expected = ExpectedGate()
    for goal, value in ((100.0, 1.0), (-1.0, 0.0)):
        shifted = alphas - shift_for_budget(alphas, weights, goal, expected)
        assert torch.isfinite(shifted).all()
        assert expected(shifted).tolist() == pytest.approx([value] * 7, abs=1e-4)


def loss_gradient(alphas: np.ndarray) -> np.ndarray:
    """Of the loss `Σ cᵢ sin(αᵢ) + (Σ αᵢ)² / 50`, any smooth one."""
    c = np.arange(1, 8) / 4
    return c * np.cos(alphas) + 2 * alphas.sum() / 50


def loss(alphas: np.ndarray) -> float:
    return float((np.arange(1, 8) / 4 * np.sin(alphas)).sum() + alphas.sum() ** 2 / 50)


def test_the_gradient_is_that_of_the_loss_on_the_budget() -> None:
    """Finite differences of α → loss(α − b(α)), b being the exact shift."""
    goal = 5.5
    shifted = ALPHAS - exact_shift(ALPHAS, WEIGHTS, goal)
    step = 1e-4
    expected = []
    for i in range(7):
        sides = []
        for sign in (1, -1):
            moved = shifted + sign * step * np.eye(7)[i]
            sides.append(loss(moved - exact_shift(moved, WEIGHTS, goal)))
        expected.append((sides[0] - sides[1]) / (2 * step))
    found = project_gradient(
        torch.tensor(loss_gradient(shifted)).float(),
        torch.tensor(shifted).float(),
        torch.tensor(WEIGHTS).float(),
        ExpectedGate(),
    )
    assert found.tolist() == pytest.approx(expected, abs=5e-3)
    assert abs(found.sum().item()) < 1e-4, "shifting all α alike changes nothing"
    # Along the surface, the budget's normal taken out, it says what the plain gradient says.
    normal = [w * (mean_gate(a + 1e-3) - mean_gate(a - 1e-3)) for a, w in zip(shifted, WEIGHTS, strict=True)]
    along = np.random.default_rng(0).normal(size=7)
    along -= np.dot(along, normal) / np.dot(normal, normal) * np.array(normal)
    assert np.dot(along, found.numpy()) == pytest.approx(np.dot(along, loss_gradient(shifted)), abs=5e-3)


def test_where_no_gate_can_move_the_gradient_stays_finite() -> None:
    gradient = torch.zeros(3)
    found = project_gradient(gradient, torch.full((3,), 40.0), torch.ones(3), ExpectedGate())
    assert found.tolist() == [0, 0, 0]
