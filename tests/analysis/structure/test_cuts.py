"""Minimum cuts, against trying every set of edges or nodes."""

from __future__ import annotations

from itertools import chain, combinations

import networkx as nx
import numpy as np
import pytest

from analysis.structure.cuts import minimum_edge_cut, minimum_node_cut
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

NAMES = [name for name in UNIVERSES if name != "hand"]


def thinned(name: str, seed: int, *, scores: str = "normal") -> Circuit:
    """A circuit of at most eleven edges, so that all sets of them can be tried."""
    circuit = random_circuit(name, seed, scores=scores)
    while len(circuit) > 11:
        left = [np.delete(np.arange(len(circuit)), index) for index in range(len(circuit))]
        shorter = [
            Circuit.from_edges(circuit.universe, circuit.edge_ids[keep], scores=circuit.scores[keep]) for keep in left
        ]
        circuit = max(shorter, key=len)
    return circuit


def is_cut(graph: nx.DiGraph, *, edges=(), nodes=()) -> bool:
    left = graph.copy()
    left.remove_edges_from(edges)
    left.remove_nodes_from(nodes)
    starts = [name for name in ("input", "tok", "pos") if name in left]
    return not any("logits" in left and nx.has_path(left, name, "logits") for name in starts)


def all_cuts(circuit: Circuit) -> list[tuple[tuple[str, str], ...]]:
    subsets = chain.from_iterable(combinations(circuit.edges, size) for size in range(len(circuit) + 1))
    graph = circuit.graph
    return [subset for subset in subsets if is_cut(graph, edges=subset)]


@pytest.mark.parametrize("name", NAMES)
def test_edge_cuts_are_the_smallest_of_all(name: str) -> None:
    circuit = thinned(name, 1, scores="ties")
    assert 6 <= len(circuit) <= 11
    score = dict(zip(circuit.edges, abs(circuit.scores).tolist(), strict=True))
    cuts = all_cuts(circuit)
    for by in ("count", "score"):

        def size(cut, by=by):
            total = round(sum(score[edge] for edge in cut), 9)
            return (len(cut), total) if by == "count" else (total, len(cut))

        smallest = min(map(size, cuts))
        best = {frozenset(cut) for cut in cuts if size(cut) == smallest}
        found = minimum_edge_cut(circuit, by=by)
        got = frozenset(zip(found.table["source"], found.table["target"], strict=True))
        assert got in best
        assert found.unique == (len(best) == 1)
        assert found.table["edge"].tolist() == [edge for edge in circuit if tuple(edge.split("->")) in got]


@pytest.mark.parametrize("name", NAMES)
def test_node_cuts_are_the_smallest_of_all(name: str) -> None:
    n_cut = n_uncuttable = 0
    for seed in range(6):
        circuit = random_circuit(name, seed)
        direct = [edge for edge in circuit.edges if edge[0] in ("input", "tok", "pos") and edge[1] == "logits"]
        if direct:
            with pytest.raises(ConfigurationError, match=f"cuts the path {direct[0][0]} -> logits"):
                minimum_node_cut(circuit)
            n_uncuttable += 1
            continue
        graph, inner = circuit.graph, [*circuit.heads, *circuit.mlps]
        for size in range(1, len(inner) + 1):
            best = [set(nodes) for nodes in combinations(inner, size) if is_cut(graph, nodes=nodes)]
            if best:
                break
        found = minimum_node_cut(circuit)
        assert set(found.table["node"]) in best
        assert found.unique == (len(best) == 1)
        n_cut += 1
    assert n_cut >= 1


def test_floats_that_rounding_would_confuse() -> None:
    # As floats, 0.1 + 0.7 is smaller than 0.8 by 8e-17; the two edges are the smaller cut, exactly.
    scores = {"input->m0": 0.8, "m0->m1": 0.1, "m0->logits": 0.7, "m1->logits": 9.0}
    found = minimum_edge_cut(Circuit.from_edges(UNIVERSES["mha"], scores), by="score")
    assert sorted(found.table["score"]) == [0.1, 0.7]
    tiny = {"input->m0": 5e-324, "m0->logits": 1e300}
    assert minimum_edge_cut(Circuit.from_edges(UNIVERSES["mha"], tiny), by="score").table["score"].tolist() == [5e-324]


def test_equal_cuts_are_told_and_the_one_near_the_source_is_given() -> None:
    circuit = Circuit.from_edges(UNIVERSES["mha"], ["input->m0", "m0->m1", "m1->logits"])
    found = minimum_edge_cut(circuit)
    assert (found.table["edge"].tolist(), found.unique, len(found)) == (["input->m0"], False, 1)
    nodes = minimum_node_cut(circuit)
    assert (nodes.table["node"].tolist(), nodes.unique) == (["m0"], False)


def test_of_cuts_of_as_many_edges_the_weakest_is_given() -> None:
    scores = {"input->m0": 3.0, "m0->m1": -1.0, "m1->logits": 2.0}
    found = minimum_edge_cut(Circuit.from_edges(UNIVERSES["mha"], scores))
    assert (found.table["edge"].tolist(), found.unique) == (["m0->m1"], True)


def test_other_ends() -> None:
    circuit = hand_circuit()
    found = minimum_edge_cut(circuit, sources=["a0.h0", "a0.h1"], targets="a1.h0")
    assert set(found.table["edge"]) == {"a0.h0->a1.h0<q>", "a0.h1->m0"}
    # The heads share their value reader, so one edge cuts both; by score the weakest single edge after m0 loses.
    found = minimum_edge_cut(circuit, sources="input", targets=["a0.h0", "a0.h1"])
    assert found.table["edge"].tolist() == ["input->a0.kv0<v>"]
    assert minimum_node_cut(circuit, targets="a1.h0<q>").table["node"].tolist() == ["a0.h0"]


def test_nothing_to_cut() -> None:
    empty = Circuit.from_edges(UNIVERSES["gqa"], [])
    for found in (minimum_edge_cut(empty), minimum_node_cut(empty), minimum_edge_cut(empty, by="score")):
        assert len(found) == 0
        assert found.unique
    assert list(minimum_edge_cut(empty).table.columns) == ["edge", "source", "target", "kind", "score"]
    lone = Circuit.from_edges(UNIVERSES["mha"], ["m0->logits"], ablation="zero")
    assert len(minimum_edge_cut(lone)) == 0


def test_bad_arguments() -> None:
    with pytest.raises(UnknownNameError, match="unknown measure of a cut 'scores'; did you mean 'score'"):
        minimum_edge_cut(hand_circuit(), by="scores")
    with pytest.raises(UnknownNameError, match="unknown target of paths 'm7'"):
        minimum_node_cut(hand_circuit(), targets="m7")
