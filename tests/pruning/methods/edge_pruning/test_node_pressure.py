"""Pressure on nodes: the smooth number of them, its gradient, and that it empties heads of edges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.node_pressure import NodePressure
from tests.pruning.methods.edge_pruning.test_nested import NESTED
from tests.pruning.methods.edge_pruning.test_train import BUDGET, LAGRANGIAN, trainer_of

UNIVERSE = Universe(family="llama", n_layers=2, n_heads=2, n_kv_heads=1)


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


def by_hand(gates: np.ndarray) -> float:
    total = 0.0
    for writer in UNIVERSE.writers:
        if writer == "input":
            continue
        leaving = sum(
            gates[edge] for edge in range(UNIVERSE.n_edges) if UNIVERSE.edge_name(edge).split("->")[0] == writer
        )
        total += 1 - math.exp(-leaving)
    return total


def test_the_number_of_nodes_is_that_of_the_formula() -> None:
    assert "input" in UNIVERSE.writers
    gates = np.random.default_rng(0).uniform(0, 1, UNIVERSE.n_edges)
    assert float(NodePressure(UNIVERSE).nodes(torch.tensor(gates))) == pytest.approx(by_hand(gates), rel=1e-12)


def test_no_edge_is_no_node_and_many_edges_are_one_each() -> None:
    pressure = NodePressure(UNIVERSE)
    assert float(pressure.nodes(torch.zeros(UNIVERSE.n_edges))) == 0
    from_embedding = torch.tensor([float(UNIVERSE.edge_name(e).startswith("input->")) for e in range(UNIVERSE.n_edges)])
    assert float(pressure.nodes(from_embedding)) == 0  # the embeddings are always there
    assert float(pressure.nodes(torch.full((UNIVERSE.n_edges,), 40.0))) == pytest.approx(6)  # 4 heads, 2 MLPs


def test_an_edge_is_cheaper_where_its_node_has_more() -> None:
    few, many = (UNIVERSE.edge_index(name, "logits") for name in ("a1.h0", "a0.h0"))
    gates = torch.zeros(UNIVERSE.n_edges)
    gates[few] = 1
    for edge in range(UNIVERSE.n_edges):
        if UNIVERSE.edge_name(edge).startswith("a0.h0->"):
            gates[edge] = 1
    gates.requires_grad_()
    NodePressure(UNIVERSE).nodes(gates).backward()
    assert gates.grad is not None
    assert float(gates.grad[few]) == pytest.approx(math.exp(-1))
    n_many = int((gates.detach() > 0).sum()) - 1
    assert float(gates.grad[many]) == pytest.approx(math.exp(-n_many))


@pytest.mark.parametrize("recipe", [LAGRANGIAN, BUDGET, NESTED], ids=lambda recipe: recipe.control)
def test_a_price_empties_nodes(compiled: CompiledModel, recipe) -> None:
    """At the same number of edges; a price that outweighs the objective by far shows it in a few steps."""
    pressure = NodePressure(compiled.universe)
    longer = replace(recipe, steps=60, ramp_steps=min(recipe.ramp_steps, 40), init_mean=0.0)
    left = []
    for price in (0.0, 1.0):
        gates = train(trainer_of(compiled, replace(longer, node_price=price))).gates
        kept = torch.topk(gates.scores(), round(0.2 * compiled.universe.n_edges)).indices
        edges = torch.zeros(compiled.universe.n_edges).index_fill(0, kept, 1.0)
        left.append(float(pressure.nodes(edges)))
    assert left[1] < 0.8 * left[0]


def test_the_price_is_part_of_the_loss_and_not_of_the_objective(compiled: CompiledModel) -> None:
    free, priced = (trainer_of(compiled, replace(NESTED, node_price=price)).step(0) for price in (0.0, 0.01))
    assert free.loss == free.objective == priced.objective
    assert 0 < priced.loss - priced.objective < 0.01 * (compiled.universe.n_writers - 1)


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="node_price must be at least 0; got -1"):
        replace(NESTED, node_price=-1)
