"""Random circuits: the size of what they imitate, pair of layers by pair of layers, and nothing that dangles."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import numpy as np
import pytest

from circuitgraph.circuit import Circuit
from circuitgraph.universe import Universe, node_layer
from pruning.baselines import random_circuit
from tests.pruning.small_prompts import GlobalRandomState

UNIVERSES = {
    "gpt2": Universe(family="gpt2", n_layers=4, n_heads=4, n_kv_heads=4),
    "gpt2-split-joint": Universe(family="gpt2", n_layers=4, n_heads=4, n_kv_heads=4, embeddings="split", qkv="joint"),
    "llama-gqa": Universe(family="llama", n_layers=4, n_heads=4, n_kv_heads=2),
}


def some_circuit(universe: Universe, *, ablation: str, share: float = 0.3, seed: int = 0) -> Circuit:
    return Circuit.from_edges(universe, np.random.default_rng(seed).random(universe.n_edges) < share, ablation=ablation)


def pair_sizes(circuit: Circuit) -> Counter:
    """Edges by the layers that they join, counted from their names."""
    ends = [edge.split("->") for edge in circuit]
    return Counter((node_layer(writer), node_layer(reader)) for writer, reader in ends)


def dangling(circuit: Circuit) -> list[tuple[str, str]]:
    """Kept edges that lie on no path, by networkx alone."""
    graph = nx.DiGraph(list(circuit.edges))
    graph.add_edges_from(circuit.universe.structural_edges())
    graph.add_nodes_from(["tok", "pos", "input", "logits"])
    before_logits = nx.ancestors(graph, "logits") | {"logits"}
    after_input = {"tok", "pos", "input"}.union(*(nx.descendants(graph, e) for e in ("tok", "pos", "input")))
    found = [(u, v) for u, v in circuit.edges if v not in before_logits]
    if circuit.ablation == "counterfactual":
        found += [(u, v) for u, v in circuit.edges if u not in after_input]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("name", UNIVERSES)
def test_as_many_edges_between_each_pair_of_layers(name: str, ablation: str) -> None:
    model = some_circuit(UNIVERSES[name], ablation=ablation)
    assert len(model) >= 40
    short = []
    for seed in range(8):
        found = random_circuit(model, seed=seed)
        missing = pair_sizes(model) - pair_sizes(found)
        assert not pair_sizes(found) - pair_sizes(model), "never more edges than asked"
        assert sum(missing.values()) == found.provenance["missing"] == len(model) - len(found)
        short.append(sum(missing.values()) / len(model))
        assert dangling(found) == []
        assert found.n_raw == len(found)
        assert found.ablation == ablation
    # Graphs this small leave little choice, and a pair of layers can be stuck without an edge that fits.
    assert min(short) == 0 and sum(short) / len(short) < 0.1 and max(short) <= 0.2


def test_the_size_is_met_where_circuits_are_of_a_real_size() -> None:
    universe = Universe(family="llama", n_layers=12, n_heads=9, n_kv_heads=3)
    model = some_circuit(universe, ablation="counterfactual", share=0.1)
    assert len(model) > 500
    for seed in range(3):
        found = random_circuit(model, seed=seed)
        assert not pair_sizes(found) - pair_sizes(model)
        assert len(model) - len(found) <= 0.005 * len(model)


def test_the_seed_alone_decides() -> None:
    model = some_circuit(UNIVERSES["gpt2"], ablation="counterfactual")
    state = GlobalRandomState()
    draws = [random_circuit(model, seed=seed) for seed in (0, 1, 2, 0)]
    state.assert_untouched()
    assert draws[0] == draws[3]
    assert len({draw.digest for draw in draws[:3]}) == 3
    shared = len(set(draws[0]) & set(draws[1])) / len(draws[0])
    assert shared < 0.9, "draws are not nearly the same circuit"
    assert draws[0].provenance["imitates"] == model.digest


def test_an_empty_circuit_is_imitated_by_nothing() -> None:
    model = Circuit.from_edges(UNIVERSES["gpt2"], [])
    assert len(random_circuit(model, seed=0)) == 0


def test_everything_is_imitated_by_everything() -> None:
    universe = UNIVERSES["llama-gqa"]
    everything = Circuit.from_edges(universe, np.ones(universe.n_edges, dtype=bool))
    assert random_circuit(everything, seed=3) == everything
