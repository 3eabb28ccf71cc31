"""Random circuits: the size of what they imitate, pair of layers by pair of layers, and nothing that dangles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import networkx as nx
import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import REMOVED, GateMap
from circuitgraph.graph.node_names import node_layer, node_span
from circuitgraph.graph.spans import with_spans
from circuitgraph.graph.universe import Universe
from pruning.evaluation.random_circuits import random_circuit
from tests.pruning.prompts.small_prompts import GlobalRandomState

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


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("name", UNIVERSES)
def test_as_many_edges_between_each_pair_of_layers(name: str, ablation: str) -> None:
    model = some_circuit(UNIVERSES[name], ablation=ablation)
    assert len(model) >= 40
    for seed in range(3):
        found = random_circuit(model, seed=seed)
        assert pair_sizes(found) == pair_sizes(model)
        assert len(found) == found.n_raw == len(model) and found.provenance["missing"] == 0
        assert dangling(found) == []
        assert found.ablation == ablation
        assert found.provenance["moved"] == 1 - len(set(found) & set(model)) / len(model) > 0.1


def placements(model: Circuit) -> set[frozenset[int]]:
    """All ways to place a circuit's edges between the same layers without a dangling one, tried one by one."""
    universe = model.universe
    ends = [edge.split("->") for edge in (universe.edge_name(edge) for edge in range(universe.n_edges))]
    pairs = [(node_layer(writer), node_layer(reader)) for writer, reader in ends]
    by_pair = [
        list(combinations([edge for edge, pair in enumerate(pairs) if pair == wanted], n))
        for wanted, n in pair_sizes(model).items()
    ]
    found = set()
    for chosen in product(*by_pair):
        edges = np.array([edge for part in chosen for edge in part])
        if len(Circuit.from_edges(universe, edges, ablation=model.ablation)) == len(edges):
            found.add(frozenset(edges.tolist()))
    return found


@pytest.mark.slow
def test_every_placement_of_a_chain_is_about_as_likely_as_any_other() -> None:
    universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
    model = Circuit.from_edges(universe, ["input->a0.h0<q>", "a0.h0->a1.h1<v>", "a1.h1->logits"])
    every = placements(model)
    assert len(every) == 49  # in each layer a query, key or value of one of two heads, or the MLP
    draws = Counter(frozenset(random_circuit(model, seed=seed).edge_ids.tolist()) for seed in range(294))
    assert set(draws) == every
    statistic = sum((draws[one] - 6) ** 2 / 6 for one in every)
    assert statistic < 84  # the 0.999 quantile of chi squared with 48 degrees of freedom


@pytest.mark.parametrize("n_layers", [3, 12])
def test_a_long_chain_keeps_its_length(n_layers: int) -> None:
    universe = Universe(family="gpt2", n_layers=n_layers, n_heads=12, n_kv_heads=12)
    chain = ["input->m0", *(f"m{i}->m{i + 1}" for i in range(n_layers - 1)), f"m{n_layers - 1}->logits"]
    model = Circuit.from_edges(universe, chain)
    found = [random_circuit(model, seed=seed) for seed in range(5)]
    assert [len(one) for one in found] == [n_layers + 1] * 5
    assert len({one.digest for one in found}) == 5
    assert all(one.provenance["moved"] > 0.5 for one in found)


def test_an_edited_graph_is_kept_to() -> None:
    universe = UNIVERSES["llama-gqa"]
    graph = build_graph(universe)
    graph.remove_nodes_from(["m1", "a2.h0"])
    graph.edges["input", "a0.h0<q>"]["frozen"] = True
    gate_map = GateMap.from_graph(universe, graph)
    kept = (np.random.default_rng(0).random(universe.n_edges) < 0.3) & (gate_map.parameter_of_edge != REMOVED)
    kept[universe.edge_index("input", "a0.h0<q>")] = kept[universe.edge_index("a0.h0", "logits")] = True
    model = Circuit.from_edges(universe, kept)
    for seed in range(5):
        found = random_circuit(model, seed=seed, gate_map=gate_map)
        assert pair_sizes(found) == pair_sizes(model)
        assert "input->a0.h0<q>" in set(found)
        assert (gate_map.parameter_of_edge[found.edge_ids] != REMOVED).all()


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


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("name", UNIVERSES)
def test_with_spans_each_span_has_as_many_edges_between_each_pair_of_layers(name: str, ablation: str) -> None:
    universe = with_spans(replace(UNIVERSES[name], n_layers=3), ("start", "name", "end"), asked=("name", "end"))
    model = some_circuit(universe, ablation=ablation, share=0.2)
    sizes = Counter((node_span(v), node_layer(u), node_layer(v)) for u, v in model.edges)
    moved = set()
    for seed in range(3):
        found = random_circuit(model, seed=seed)
        assert Counter((node_span(v), node_layer(u), node_layer(v)) for u, v in found.edges) == sizes
        assert len(found) == found.n_raw == len(model)  # nothing dangles
        moved |= {node_span(v) for _, v in set(found.edges) - set(model.edges)}
    assert moved == {"start", "name", "end"}
