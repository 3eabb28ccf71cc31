"""Deterministic gates: by the formula, what a step adds for the price, and what recipes refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import ground_truth_edges
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.continuous import opened
from pruning.methods.edge_pruning.gates import Gates
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.runs.discover import discover
from pruning.selection.best import edges_to_keep
from pruning.tasks import load_task

UNIVERSE = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)


def gates_of(alphas: list[float]) -> Gates:
    gates = Gates(GateMap.identity(UNIVERSE), init_mean=0.0, init_std=0.0, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor(alphas))
    return gates


def test_gates_by_the_formula() -> None:
    alphas = [-20.0, -2.0, -0.1, 0.0, 0.05, 0.5, 2.0, 20.0]
    for beta in (1.0, 7.0, 200.0):
        gates = gates_of(alphas)
        sample = opened(gates, beta)
        expected = [1 / (1 + math.exp(-max(-700.0, beta * alpha))) for alpha in alphas]
        np.testing.assert_allclose(sample.edges.detach(), expected, atol=2e-6)
        # What is as good as 0 or 1 is there, and has no gradient.
        assert sample.wanted.tolist() == [1e-6 < one < 1 - 1e-6 for one in expected]
        assert float(sample.sparsity.detach()) == pytest.approx(1 - sum(expected) / 8, abs=1e-6)
        sample.edges.sum().backward()
        slopes = [beta * one * (1 - one) * (1e-6 < one < 1 - 1e-6) for one in expected]
        np.testing.assert_allclose(gates.log_alpha.grad, slopes, rtol=2e-3, atol=1e-6)
    assert edges_to_keep(gates_of(alphas), rule="open", target_sparsity=0.9) == 4


def test_a_step_pays_for_what_is_open() -> None:
    loaded = load_model("tracr:xproportion")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    pairs = load_task("tracr-xproportion", loaded.tokenizer, options={"max_length": 2}).split("train")
    frozen = FrozenRuns(compiled, pairs, ablation="zero", budget_bytes=1 << 24)
    recipe = recipe_named("continuous").changed(steps=10, price=0.25, batch_size=4)
    trainer = Trainer(compiled, frozen, recipe, objective="mse", seed=0)
    start = trainer.gates.log_alpha.detach().clone()
    record = trainer.step(0)
    # In the first step β is 1: every gate is σ(α), near σ(3).
    assert record.loss - record.objective == pytest.approx(0.25 * float(torch.sigmoid(start).sum()), rel=1e-5)
    assert record.undecided == compiled.universe.n_edges == 32


@pytest.mark.parametrize(
    "changes", [{"price": 0.0}, {"keep": "paper"}, {"draws": 2}, {"control": "lagrangian"}, {"writer_gates": True}]
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="control="):
        recipe_named("continuous").changed(**changes)
    with pytest.raises(ConfigurationError, match="price 0.1"):
        recipe_named("quick").changed(price=0.1)


@pytest.mark.full
@pytest.mark.parametrize("program", ["reverse", "xproportion"])
def test_programs_are_recovered_by_two_of_three_seeds(program: str) -> None:
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task(f"tracr-{program}", loaded.tokenizer)
    found = [
        set(discover(compiled, task, "continuous", seed=seed, n_random=0, n_effects=0, splits=()).circuit)
        for seed in range(3)
    ]
    assert sum(circuit == ground_truth_edges(program) for circuit in found) >= 2
