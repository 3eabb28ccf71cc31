"""Gates' gradients of each family against autograd through hooks on the untouched model, at every edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.circuitgraph.architectures.battery.case import Made, exact, gates_of, prompts
from tests.circuitgraph.architectures.battery.families import LONG_ONES
from tests.oracles.hooks import all_said, run_gated
from tests.oracles.uncast import uncast

pytestmark = pytest.mark.slow


def loss_of(logits: Tensor) -> Tensor:
    """Any function that all logits move."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (logits.log_softmax(-1) * weights).sum()


class Both:
    """A loss of gates, through the masked pass and through hooks."""

    def __init__(self, own: Made, side: str, ablation: str) -> None:
        self.own = own
        self.clean, other = prompts(side=side, seed=3)
        self.said = all_said(own.model, own.compiled.universe, other, own.marks)
        self.values = own.compiled.run_with_values(other)[1]
        if ablation == "mean":
            self.said = {name: value.mean((0, 1)) for name, value in self.said.items()}
            self.values = own.compiled.ablation_values("mean", [other])

    def masked(self, gates: Tensor) -> Tensor:
        everything = torch.ones(self.own.n_edges, dtype=torch.bool)
        return loss_of(self.own.compiled.masked(gates, self.clean, self.values, wanted=everything).logits)

    def hooked(self, gates: Tensor) -> Tensor:
        universe = self.own.compiled.universe
        return loss_of(run_gated(self.own.model, universe, gates, self.clean, self.said, self.own.marks))


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize(("ablation", "side", "cut"), [("counterfactual", "left", 0.3), ("mean", "none", 0.3)])
def test_every_gates_gradient(case: str, ablation: str, side: str, cut: float) -> None:
    """Of gates at 0, at 1 and between; and one direction by finite differences, which needs no autograd."""
    own = exact(case)
    gates = gates_of(own.n_edges, cut=cut, seed=2, between=True).double().requires_grad_()
    with uncast():
        both = Both(own, side, ablation)
        (ours,) = torch.autograd.grad(both.masked(gates), gates)
        (theirs,) = torch.autograd.grad(both.hooked(gates), gates)
        assert int((theirs != 0).sum()) > 0.3 * own.n_edges
        # 1e-11 of the largest is seen, and more where the model itself has only float32.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=10 * own.case.exact * float(theirs.abs().max()))

        along = torch.randn(own.n_edges, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            there, back = (both.hooked(gates + sign * step * along) for sign in (1, -1))
        # Two runs' rounding over twice the step, and the third derivative; 1e-7 is seen.
        assert float(ours @ along) == pytest.approx(float(there - back) / (2 * step), rel=1e-4)
