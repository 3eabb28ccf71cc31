"""Dropping dangling edges changes no output, by the executor and by the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.graph.liveness import effective_edges
from tests.circuitgraph.forward.situations import BothWays, Situation
from tests.oracles import definition as oracle
from tests.oracles.cases import BATTERY, ModelMakers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BATTERY)
def both(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> BothWays:
    # Three layers, so that a whole chain of edges can dangle.
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64, n_layers=3)
    situation = Situation("mixture", 0.0, 0.5, "counterfactual", "left", (5, 3), 2, 1)
    return BothWays(compiled, oracle.plain_model(compiled.model), situation)


def sparse_circuit(both: BothWays, seed: int) -> np.ndarray:
    """Few edges, most of which dangle."""
    return np.random.default_rng(seed).random(both.compiled.universe.n_edges) < 0.15


def of(both: BothWays, ablation: str) -> BothWays:
    situation = Situation("mixture", 0.0, 0.5, ablation, "left", (5, 3), 2, 1)
    return BothWays(both.compiled, both.plain, situation)


def as_gates(kept: np.ndarray) -> Tensor:
    return torch.from_numpy(kept).double()


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean"])
def test_dropped_edges_change_nothing(both: BothWays, ablation: str) -> None:
    both, n_dropped = of(both, ablation), 0
    for seed in range(4):
        kept = sparse_circuit(both, seed)
        effective = effective_edges(both.compiled.universe, kept, ablation)
        assert not (effective & ~kept).any()
        n_dropped += int(kept.sum() - effective.sum())
        for run in (both.executor, both.definition):
            torch.testing.assert_close(run(as_gates(kept)), run(as_gates(effective)), atol=1e-11, rtol=0)
    assert n_dropped > 4


def test_edges_that_are_left_do_something(both: BothWays) -> None:
    """Cutting one more edge moves the output, so the rule does not keep what it could drop."""
    both = of(both, "counterfactual")
    kept = effective_edges(both.compiled.universe, sparse_circuit(both, 0) | sparse_circuit(both, 1), "counterfactual")
    full = both.definition(as_gates(kept))
    edges = np.flatnonzero(kept)
    moved = []
    for edge in edges[:: max(1, len(edges) // 12)]:
        fewer = kept.copy()
        fewer[edge] = False
        moved.append(float((both.definition(as_gates(fewer)) - full).abs().max()) > 1e-9)
    # A position that sees itself alone has no use for its query and key, and positions are alike in both prompts.
    assert len(edges) and np.mean(moved) >= 0.5


def test_without_counterfactuals_an_unfed_writer_still_speaks(both: BothWays) -> None:
    """The counterfactual rule would be wrong there, which is why there are two."""
    universe = both.compiled.universe
    kept = np.zeros(universe.n_edges, dtype=bool)
    kept[universe.edge_index("m1", "logits")] = True
    assert not effective_edges(universe, kept, "counterfactual").any()
    assert effective_edges(universe, kept, "zero").sum() == 1
    counterfactual, zero = of(both, "counterfactual"), of(both, "zero")
    nothing = torch.zeros(universe.n_edges, dtype=torch.float64)
    torch.testing.assert_close(
        counterfactual.executor(as_gates(kept)), counterfactual.executor(nothing), atol=1e-12, rtol=0
    )
    zero_kept, zero_nothing = zero.executor(as_gates(kept)), zero.executor(nothing)
    torch.testing.assert_close(zero_kept, zero.definition(as_gates(kept)), atol=1e-9, rtol=1e-9)
    if universe.family not in ("llama", "mistral") or getattr(both.compiled.model.config, "mlp_bias", False):
        # Without any bias a gated MLP says 0 to nothing.
        assert (zero_kept - zero_nothing).abs().max() > 1e-6
    else:
        assert torch.equal(zero_kept, zero_nothing)
