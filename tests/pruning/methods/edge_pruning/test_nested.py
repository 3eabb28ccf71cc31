"""Nested budgets: gates that sum up to the budget, the gradient through their common shift, budgets log-uniform."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.build import build_graph
from pruning.methods.edge_pruning.drawn import gates_of_step
from pruning.methods.edge_pruning.gates import TEMPERATURE, Gates
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.nested import TOWARDS_SMALL, drawn_budgets, keeping, top_k_gates
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from tests.circuitgraph.graph.universes import STEADY
from tests.pruning.methods.edge_pruning.test_train import trainer_of

NESTED = Recipe(
    name="test", steps=10, ramp_steps=0, warmup_steps=1, learning_rate=0.2, target_sparsity=0.8, control="nested",
    start_sparsity=0.3, end_sparsity=0.95, init_mean=0.0, init_std=1.0, batch_size=2, draws=2, keep="target",
)  # fmt: skip


def gates_by_hand(log_alpha: np.ndarray, shift: float) -> np.ndarray:
    """The hard-concrete gate at its median."""
    return np.clip(1.2 / (1 + np.exp(-(log_alpha - shift) * 1.5)) - 0.1, 0, 1)


@STEADY
@given(
    seed=st.integers(0, 1000),
    n=st.integers(2, 40),
    share=st.floats(0.02, 0.98),
    spread=st.sampled_from([0.0, 0.1, 3.0, 50.0]),
    tied=st.booleans(),
)
def test_gates_sum_up_to_the_budget_and_keep_the_order(seed, n, share, spread, tied) -> None:
    rng = np.random.default_rng(seed)
    alpha = rng.normal(size=n) * spread
    weights = rng.integers(1, 5, n).astype(float) if tied else np.ones(n)
    kept = share * weights.sum()
    gates = top_k_gates(torch.tensor(alpha), torch.tensor(weights), kept).numpy()
    assert (gates * weights).sum() == pytest.approx(kept, rel=1e-6)
    assert (np.diff(gates[np.argsort(alpha)]) > -1e-12).all() and gates.min() >= 0 and gates.max() <= 1
    inner = (gates > 1e-9) & (gates < 1 - 1e-9)
    if inner.any():  # the shift that one open gate implies is everybody's
        shift = alpha[inner][0] - math.log((gates[inner][0] + 0.1) / (1.1 - gates[inner][0])) / 1.5
        assert np.allclose(gates, gates_by_hand(alpha, shift), atol=1e-5)


def test_far_apart_scores_give_gates_that_are_exactly_0_and_1() -> None:
    gates = top_k_gates(torch.tensor([20.0, 10.0, 0.5, -0.5, -10.0, -20.0]), torch.ones(6), 3.0)
    assert gates.tolist()[:2] == [1.0, 1.0] and gates.tolist()[4:] == [0.0, 0.0]
    assert 0.5 < float(gates[2]) < 1 and float(gates[2] + gates[3]) == pytest.approx(1.0)


@pytest.mark.parametrize("tied", [False, True])
def test_the_gradient_goes_through_the_shift(tied: bool) -> None:
    """Against differences of the whole function, shift found anew."""
    generator = torch.Generator().manual_seed(3)
    alpha = torch.randn(7, generator=generator, dtype=torch.float64) * 2
    weights = torch.tensor([1, 2, 1, 3, 1, 1, 2.0], dtype=torch.float64) if tied else torch.ones(7, dtype=torch.float64)
    downstream = torch.randn(7, generator=generator, dtype=torch.float64)

    def value(scores: torch.Tensor) -> torch.Tensor:
        return (top_k_gates(scores, weights, 3.3) * downstream).sum()

    asked = alpha.clone().requires_grad_()
    value(asked).backward()
    assert asked.grad is not None
    step = 1e-5
    for index in range(7):
        moved = torch.zeros(7, dtype=torch.float64)
        moved[index] = step
        slope = float(value(alpha + moved) - value(alpha - moved)) / (2 * step)
        assert float(asked.grad[index]) == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert float(asked.grad.sum()) == pytest.approx(0.0, abs=1e-12)  # all scores moved together change nothing


def test_budgets_cover_the_range_nearer_to_the_smaller_end_and_lie_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.array(
        [drawn_budgets(2, sparsest=0.999, densest=0.9, n_edges=1000, generator=generator) for _ in range(2000)]
    )
    places = np.log10(drawn) / 2  # from 0, one edge, to 1, a hundred
    assert places.min() >= 0 and places.max() <= 1
    uniform = places ** (1 / TOWARDS_SMALL)
    counts, _ = np.histogram(uniform[:, 0], bins=4, range=(0, 1))
    assert np.allclose(counts, 500, atol=80)
    assert np.allclose(np.abs(uniform[:, 0] - uniform[:, 1]), 0.5)


def test_a_lower_temperature_is_scores_further_apart() -> None:
    alpha = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cold = top_k_gates(alpha, torch.ones(50, dtype=torch.float64), 12.0, TEMPERATURE / 5)
    apart = top_k_gates(5 * alpha, torch.ones(50, dtype=torch.float64), 12.0)
    assert torch.allclose(cold, apart, atol=1e-9)
    undecided = ((cold > 0) & (cold < 1)).sum()
    warm = top_k_gates(alpha, torch.ones(50, dtype=torch.float64), 12.0)
    assert undecided < ((warm > 0) & (warm < 1)).sum()


def test_gates_become_decided_from_step_to_step(tiny_gpt2) -> None:
    """With the scores as they are, a later step has fewer gates between 0 and 1."""
    trainer = trainer_of(compile_model(tiny_gpt2(), verify=False), replace(NESTED, sharpen=20.0, draws=1))
    drawn = []
    for index in (0, 9):
        trainer.generator.manual_seed(0)
        drawn.append(gates_of_step(trainer.gates, trainer.recipe, index, trainer._weights, trainer.generator)[0])
    assert drawn[0].undecided > drawn[1].undecided
    assert float(drawn[0].sparsity.detach()) == pytest.approx(float(drawn[1].sparsity.detach()), abs=1e-4)


def test_frozen_removed_and_tied_edges_count(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(), verify=False)
    graph = build_graph(compiled.universe)
    names = list(graph.edges)
    graph.remove_edge(*names[0])
    graph.edges[names[1]]["frozen"] = True
    for edge in names[2:5]:
        graph.edges[edge]["mask"] = graph.edges[names[2]]["mask"]
    gate_map = compiled.with_graph(graph).gate_map
    gates = Gates(gate_map, init_mean=0.0, init_std=1.0, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor(gate_map.edges_per_parameter, dtype=torch.float32)
    sample = keeping(gates, 20.0, weights)
    kept = sample.edges.detach()
    assert float(kept.sum()) == pytest.approx(20.0, rel=1e-4)
    assert float(kept[0]) == 0.0 and float(kept[1]) == 1.0
    assert len(set(kept[2:5].tolist())) == 1


def test_every_step_keeps_its_budgets_and_moves_the_scores(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(), verify=False)
    trainer = trainer_of(compiled, NESTED)
    before = trainer.gates.log_alpha.detach().clone()
    run = train(trainer)
    densities = [1 - record.sparsity for record in run.records]
    assert all(0.05 <= density <= 0.7 for density in densities)
    assert np.std(densities) > 0.01 and {record.target for record in run.records} == {0.8}
    assert not torch.equal(before, run.gates.log_alpha)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"end_sparsity": 0.2}, "start_sparsity up to end_sparsity"),
        ({"end_sparsity": 1.0}, "below 1"),
        ({"keep": "paper"}, "keep='target'"),
        ({"settle_steps": 3}, "settle_steps must be 0"),
        ({"target_sparsity": 1.2}, "below 1"),
        ({"writer_gates": True}, "writer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(NESTED, **changes)


def test_the_recipe_is_there() -> None:
    assert recipe_named("nested").control == "nested"
