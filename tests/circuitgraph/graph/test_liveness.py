"""Dangling edges against paths in networkx, one edge at a time, structural edges included."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from circuitgraph.graph.build import build_graph
from circuitgraph.graph.liveness import effective_edges, heads_fed, readers_reaching, readers_used, writers_reached
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, Kept, kept_edges

ABLATIONS = ["counterfactual", "zero", "mean", "optimal"]


def kept_graph(universe: Universe, kept: np.ndarray) -> nx.DiGraph:
    graph = build_graph(universe)
    graph.remove_edges_from([(u, v) for u, v, m in graph.edges(data="mask") if m is not None and not kept[m]])
    return graph


@settings(parent=STEADY, max_examples=200)
@given(case=kept_edges())
def test_effective_edges_lie_on_paths(case: Kept) -> None:
    universe, kept = case.universe, case.mask
    graph = kept_graph(universe, kept)
    inputs = universe.writers[: universe.n_embeddings]
    after_input = set(inputs).union(*(nx.descendants(graph, name) for name in inputs))
    before_logits = nx.ancestors(graph, "logits") | {"logits"}
    masks = [(u, v, mask) for u, v, mask in graph.edges(data="mask") if mask is not None]
    expected = {
        "counterfactual": {m for u, v, m in masks if u in after_input and v in before_logits},
        "zero": {m for _, v, m in masks if v in before_logits},
    }
    before = kept.copy()
    for ablation in ABLATIONS:
        found = set(np.flatnonzero(effective_edges(universe, kept, ablation)).tolist())
        assert found == expected["counterfactual" if ablation == "counterfactual" else "zero"], ablation
    assert np.array_equal(kept, before)
    # A reader that no kept edge enters may reach the logits all the same: its head does.
    reaching = {name for name, live in zip(universe.readers, readers_reaching(universe, kept), strict=True) if live}
    assert reaching == before_logits.intersection(universe.readers)
    reached = {name for name, live in zip(universe.writers, writers_reached(universe, kept), strict=True) if live}
    assert reached == {name for name in universe.writers if name in after_input and _writes(universe, graph, name)}


def _writes(universe: Universe, graph: nx.DiGraph, name: str) -> bool:
    """Whether a writer is an embedding or has something before it; an MLP is its own reader."""
    return name in universe.writers[: universe.n_embeddings] or bool(graph.pred[name])


@STEADY
@given(case=kept_edges())
def test_dropping_once_is_enough(case: Kept) -> None:
    universe, kept = case.universe, case.mask
    for ablation in ABLATIONS:
        once = effective_edges(universe, kept, ablation)
        assert not (once & ~kept).any()
        assert np.array_equal(effective_edges(universe, once, ablation), once)


def test_by_hand() -> None:
    universe = Universe(family="llama", n_layers=2, n_heads=2, n_kv_heads=1)
    kept = np.zeros(universe.n_edges, dtype=bool)
    names = [
        "input->a0.kv0<v>",  # feeds both heads of layer 0
        "a0.h1->m0",
        "m0->logits",
        "a1.h0->logits",  # nothing enters a1.h0
        "input->a1.h1<q>",  # a1.h1 goes nowhere
    ]
    kept[[universe.edge_index(*name.split("->")) for name in names]] = True
    for ablation, expected in (("counterfactual", names[:3]), ("zero", names[:4])):
        found = np.flatnonzero(effective_edges(universe, kept, ablation))
        assert {universe.edge_name(int(edge)) for edge in found} == set(expected)


def test_heads_and_readers_of_a_layer() -> None:
    universe = Universe(family="llama", n_layers=1, n_heads=4, n_kv_heads=2)
    readers = np.zeros(8, dtype=bool)  # four queries, two keys, two values
    readers[[0, 7]] = True
    assert heads_fed(universe, readers).tolist() == [True, False, True, True]
    heads = np.array([False, True, False, False])
    assert readers_used(universe, heads).tolist() == [False, True, False, False, True, False, True, False]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_whole_universe_is_effective_and_the_empty_one_empty(ablation: str) -> None:
    universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
    everything = np.ones(universe.n_edges, dtype=bool)
    assert effective_edges(universe, everything, ablation).all()
    assert not effective_edges(universe, ~everything, ablation).any()
