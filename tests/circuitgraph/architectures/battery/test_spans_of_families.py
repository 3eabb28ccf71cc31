"""Gates of each span, and their gradients, against hooks in families whose layers are not those of GPT-2 or Llama."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.graph.spans import SpannedUniverse
from tests.circuitgraph.architectures.battery.case import differs_by, exact, gates_of, prompts
from tests.circuitgraph.forward.test_spans import NAMES, by_position, labelled
from tests.oracles.hooks import all_said, run_gated
from tests.oracles.uncast import uncast

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", ["gpt_neox", "gemma2"])  # parallel blocks; heads with one scale, and windows
def test_gates_of_spans_equal_hooks(case: str, side: str) -> None:
    own = exact(case)
    plain, (clean, other) = own.compiled.universe, prompts(side=side)
    clean, spanned = labelled(clean, seed=1), own.compiled.with_spans(NAMES, asked=NAMES)
    universe = spanned.universe
    assert isinstance(universe, SpannedUniverse)
    gates = gates_of(universe.n_edges, cut=0.4, seed=1, between=True).double().requires_grad_()
    with uncast():
        values, said = spanned.run_with_values(other)[1], all_said(own.model, plain, other, own.marks)
        theirs = run_gated(own.model, plain, by_position(universe, gates, clean), clean, said, own.marks)
        ours = spanned.masked(gates, clean, values, wanted=torch.ones(universe.n_edges, dtype=torch.bool)).logits
        assert differs_by(ours.detach(), theirs.detach()) < own.case.exact
        weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (expected,) = torch.autograd.grad((theirs * weights).sum(), gates)
        (found,) = torch.autograd.grad((ours * weights).sum(), gates)
    assert differs_by(found, expected) < own.case.exact
    assert all(expected[part.edges].abs().max() > 1e-6 for part in universe.parts)
