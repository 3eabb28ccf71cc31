"""Edited graphs taken back: what each edit means, worked out by hand, and every edit that means nothing."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given

from circuitgraph.errors import ConfigurationError, GraphEditError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import FROZEN, REMOVED, GateMap
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, universes

# One layer, one head: the edges in order are input->q, k, v; input->m0; a0.h0->m0; input, a0.h0, m0->logits.
TINY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
Q, K, V = (("input", f"a0.h0<{letter}>") for letter in "qkv")


@STEADY
@given(universe=universes())
def test_an_unedited_graph_is_the_identity(universe: Universe) -> None:
    identity, read = GateMap.identity(universe), GateMap.from_graph(universe, build_graph(universe))
    assert identity.parameter_of_edge.tolist() == list(range(universe.n_edges))
    assert identity.parameter_of_edge.dtype == np.int32
    assert np.array_equal(read.parameter_of_edge, identity.parameter_of_edge)
    assert read.edits == identity.edits
    assert (read.n_parameters, read.min_sparsity, read.max_sparsity) == (universe.n_edges, 0, 1)
    values = np.arange(universe.n_edges, dtype=np.float32)
    assert np.array_equal(read.expand(values), values)


def test_removed_frozen_and_tied_edges_by_hand() -> None:
    graph = build_graph(TINY)
    graph.remove_edge("input", "m0")
    graph.edges["m0", "logits"]["frozen"] = True
    graph.edges[V]["mask"] = graph.edges[K]["mask"] = graph.edges[Q]["mask"]
    gates = GateMap.from_graph(TINY, graph)
    assert gates.parameter_of_edge.tolist() == [0, 0, 0, REMOVED, 1, 2, 3, FROZEN]
    assert gates.edges_per_parameter.tolist() == [3, 1, 1, 1]
    values = np.array([0.5, 0.0, 1.0, 0.25])
    assert gates.expand(values).tolist() == [0.5, 0.5, 0.5, 0.0, 0.0, 1.0, 0.25, 1.0]
    assert gates.sparsity(values) == 1 - (3 * 0.5 + 0 + 1 + 0.25 + 1) / 8
    assert (gates.min_sparsity, gates.max_sparsity) == (1 / 8, 7 / 8)
    sha256 = gates.edits.pop("sha256")
    assert len(sha256) == 64
    assert sha256 != GateMap.identity(TINY).edits["sha256"]
    assert gates.edits == {
        "removed": 1,
        "frozen": 1,
        "tied": 3,
        "tie_groups": 1,
        "removed_edges": ["input->m0"],
        "frozen_edges": ["m0->logits"],
        "tied_edges": [["input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>"]],
    }


def test_the_input_is_left_alone_and_the_map_is_read_only() -> None:
    graph = build_graph(TINY)
    before = nx.to_dict_of_dicts(graph.copy())
    gates = GateMap.from_graph(TINY, graph)
    assert nx.to_dict_of_dicts(graph) == before
    with pytest.raises(ValueError, match="read-only"):
        gates.parameter_of_edge[0] = 5


def test_removing_a_node_removes_its_edges() -> None:
    universe = Universe(family="llama", n_layers=2, n_heads=2, n_kv_heads=1)
    graph = build_graph(universe)
    gone = {m for u, v, m in graph.edges(data="mask") if m is not None and {u, v} & {"a0.h1", "a1.kv0<k>", "m1"}}
    graph.remove_nodes_from(["a0.h1", "a1.kv0<k>", "m1"])
    gates = GateMap.from_graph(universe, graph)
    assert set(np.flatnonzero(gates.parameter_of_edge == REMOVED)) == gone
    assert gates.n_parameters == universe.n_edges - len(gone)


def test_which_of_its_masks_a_tie_bears_does_not_matter() -> None:
    maps = []
    for mask in (1, 2, 7):
        graph = build_graph(TINY)
        graph.remove_edge("m0", "logits")  # frees mask 7
        graph.edges[K]["mask"] = graph.edges[V]["mask"] = mask
        maps.append(GateMap.from_graph(TINY, graph))
    assert [m.parameter_of_edge.tolist() for m in maps] == [[0, 1, 1, 2, 3, 4, 5, REMOVED]] * 3
    assert len({m.edits["sha256"] for m in maps}) == 1


def test_a_quotient_trains_one_gate_a_layer_of_heads() -> None:
    universe = Universe(family="gpt2", n_layers=2, n_heads=3, n_kv_heads=3)
    graph = build_graph(universe)
    first: dict[tuple[str, str], int] = {}
    for u, v, data in graph.edges(data=True):
        if "mask" in data:
            pair = u.partition(".")[0], v.partition(".")[0]
            data["mask"] = np.int64(first.setdefault(pair, data["mask"]))
    gates = GateMap.from_graph(universe, graph)
    # input→a0, m0, a1, m1, logits; a0→m0, a1, m1, logits; m0→a1, m1, logits; a1→m1, logits; m1→logits
    assert gates.n_parameters == 5 + 4 + 3 + 2 + 1
    assert gates.edges_per_parameter.sum() == universe.n_edges
    assert gates.edges_per_parameter.max() == 3 * 9  # a0→a1: three writers, nine readers


def test_frozen_ties_and_frozen_false() -> None:
    graph = build_graph(TINY)
    graph.edges[K].update(mask=0, frozen=True)
    graph.edges[Q]["frozen"] = np.True_
    graph.edges[V]["frozen"] = False
    assert GateMap.from_graph(TINY, graph).parameter_of_edge.tolist()[:3] == [FROZEN, FROZEN, 0]


def test_names_are_listed_up_to_two_hundred() -> None:
    universe = Universe(family="gpt2", n_layers=3, n_heads=6, n_kv_heads=6)
    graph = build_graph(universe)
    edges = [(u, v) for u, v, m in graph.edges(data="mask") if m is not None]
    graph.remove_edges_from(edges[:200])
    assert len(GateMap.from_graph(universe, graph).edits["removed_edges"]) == 200
    graph.remove_edge(*edges[200])
    assert "removed_edges" not in GateMap.from_graph(universe, graph).edits


def edit_mask(value: object) -> Callable[[nx.DiGraph], None]:
    return lambda graph: graph.edges[Q].update(mask=value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda g: g.add_edge("m0", "a0.h0<q>", mask=3),
            "added edge m0->a0.h0<q>: .* reads before m0 writes",
        ),
        (lambda g: g.add_edge("input", "a0.h0"), "added edge input->a0.h0: .*reader 'a0.h0'; did you mean"),
        (lambda g: g.add_edge("logits", "input"), "added edge logits->input"),
        (lambda g: g.add_edge("a0.h0<q>", "logits", mask=1), "added edge a0.h0<q>->logits"),
        (lambda g: g.add_node("a0.h1"), "added node; unknown node 'a0.h1'; did you mean 'a0.h0'"),
        (
            lambda g: g.remove_edge("a0.h0<k>", "a0.h0"),
            "structural edge a0.h0<k>->a0.h0 was removed .* no gate",
        ),
        (lambda g: g.edges["a0.h0<k>", "a0.h0"].update(mask=1), "structural edge .* was given a mask"),
        (lambda g: g.edges[Q].pop("mask"), "input->a0.h0<q>: mask must be a whole number .*; it is missing"),
        (edit_mask(1.0), "got 1.0"),
        (edit_mask(True), "got True"),
        (edit_mask("0"), "got '0'"),
        (edit_mask(-1), "from 0 to 7; got -1.*remove the edge; to fix it at 1, set frozen=True"),
        (edit_mask(8), "from 0 to 7; got 8"),
        (lambda g: g.edges[Q].update(frozen="yes"), "frozen must be True or False; got 'yes'"),
        (
            lambda g: (g.edges[K].update(mask=0), g.edges[Q].update(frozen=True)),
            r"input->a0.h0<q> \(frozen\) and input->a0.h0<k> \(not frozen\) share mask 0",
        ),
    ],
)
def test_edits_that_mean_nothing_are_refused(edit: Callable[[nx.DiGraph], object], message: str) -> None:
    graph = build_graph(TINY)
    edit(graph)
    with pytest.raises(GraphEditError, match=message):
        GateMap.from_graph(TINY, graph)


def test_other_kinds_of_graph_are_refused() -> None:
    graph = build_graph(TINY)
    with pytest.raises(GraphEditError, match=r"expected an nx.DiGraph, .*; got MultiDiGraph"):
        GateMap.from_graph(TINY, nx.MultiDiGraph(graph))
    other = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1, embeddings="split")
    with pytest.raises(GraphMismatchError, match="embeddings: 'split' against 'joint'"):
        GateMap.from_graph(other, graph)


def test_targets_that_frozen_or_removed_edges_make_unreachable() -> None:
    graph = build_graph(TINY)
    graph.edges["m0", "logits"]["frozen"] = True
    graph.remove_edge("input", "logits")
    gates = GateMap.from_graph(TINY, graph)
    for reachable in (1 / 8, 0.5, 7 / 8, 1.01, 1.2):
        gates.check_target(reachable)
    with pytest.raises(ConfigurationError, match="1 of 8 edges are frozen, so at most 0.875"):
        gates.check_target(0.9)
    with pytest.raises(ConfigurationError, match="1 of 8 edges are removed, so at least 0.125"):
        gates.check_target(0.1)


def test_a_vector_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="each of 8 parameters; got shape \\(7,\\)"):
        GateMap.identity(TINY).expand(np.ones(7))


def test_edits_are_taken_back_from_a_provenance() -> None:
    graph = build_graph(TINY)
    graph.remove_edge("input", "m0")
    graph.edges["m0", "logits"]["frozen"] = True
    graph.edges[V]["mask"] = graph.edges[K]["mask"] = graph.edges[Q]["mask"]
    gates = GateMap.from_graph(TINY, graph)
    read = GateMap.from_edits(TINY, gates.edits)
    assert np.array_equal(read.parameter_of_edge, gates.parameter_of_edge) and read.edits == gates.edits
    with pytest.raises(GraphEditError, match="2 edges were removed and 1 of them are listed"):
        GateMap.from_edits(TINY, {**gates.edits, "removed": 2})
    with pytest.raises(GraphEditError, match="sha256"):
        GateMap.from_edits(TINY, {**gates.edits, "removed_edges": ["input->logits"]})
    with pytest.raises(UnknownNameError, match="m7"):
        GateMap.from_edits(TINY, {**gates.edits, "frozen_edges": ["m7->logits"]})


def test_kept_edges_as_the_edited_graph_has_them() -> None:
    graph = build_graph(TINY)
    graph.remove_edge("input", "m0")
    graph.edges["m0", "logits"]["frozen"] = True
    gates = GateMap.from_graph(TINY, graph)
    # Edge 3 is removed, edge 7 frozen.
    for kept in (np.zeros(8, dtype=bool), np.ones(8, dtype=bool)):
        given = kept.copy()
        assert gates.settled(kept).tolist() == [*given[:3], False, *given[4:7], True]
        assert np.array_equal(kept, given)
    assert GateMap.identity(TINY).settled(np.ones(8, dtype=bool)).all()
