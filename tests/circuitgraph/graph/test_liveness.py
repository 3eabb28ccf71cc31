"""Dangling edges against paths in networkx, one edge at a time, structural edges included."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitgraph.graph.build import build_graph
from circuitgraph.graph.liveness import backward_reach, effective_edges, forward_reach, the_logits, the_sources
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
    inputs = ways_in(universe)
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
    leads, wanted = backward_reach(universe, kept, readers=the_logits(universe))
    reaching = {name for name, live in zip(universe.readers, leads, strict=True) if live}
    assert reaching == before_logits.intersection(universe.readers)
    read = {name for name in universe.writers if any(kept_edge(graph, name, reader) for reader in reaching)}
    read |= {name for name in universe.writers if read.intersection(siblings(universe, name))}
    assert read == {name for name, live in zip(universe.writers, wanted, strict=True) if live}
    fed, said = forward_reach(universe, kept, writers=the_sources(universe))
    reached = {name for name, live in zip(universe.writers, said, strict=True) if live}
    assert reached == {name for name in universe.writers if name in after_input and _writes(universe, graph, name)}
    assert {name for name, live in zip(universe.readers, fed, strict=True) if live} == {
        name for name in universe.readers if any(kept_edge(graph, writer, name) for writer in reached)
    }


def ways_in(universe: Universe) -> list[str]:
    """Embeddings and vectors, by what their names look like."""
    return [name for name in universe.writers if name in ("input", "tok", "pos") or "@" in name]


def siblings(universe: Universe, name: str) -> set[str]:
    """The heads whose scale a head shares, itself among them; none of other writers."""
    if universe.head_scale == "own" or "." not in name:
        return set()
    return {other for other in universe.writers if other.split(".")[0] == name.split(".")[0]}


def kept_edge(graph: nx.DiGraph, writer: str, reader: str) -> bool:
    """Whether a reader reads a writer; what joins readers to their heads is no edge of the universe."""
    return graph.has_edge(writer, reader) and graph.edges[writer, reader].get("mask") is not None


def _writes(universe: Universe, graph: nx.DiGraph, name: str) -> bool:
    """Whether a writer is a way in or has something before it; an MLP is its own reader."""
    return name in ways_in(universe) or bool(graph.pred[name])


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
    attention = universe.blocks[0]
    assert attention.fed(readers).tolist() == [True, False, True, True]
    heads = np.array([False, True, False, False])
    assert attention.serving(heads).tolist() == [False, True, False, False, True, False, True, False]


@STEADY
@given(case=kept_edges(), seed=st.integers(0, 999))
def test_sweeps_from_anywhere(case: Kept, seed: int) -> None:
    """Both sweeps from any readers and writers, by paths in networkx, one start at a time."""
    universe, rng = case.universe, np.random.default_rng(seed)
    graph = sides(universe, kept_graph(universe, case.mask))
    writers, readers, within = (
        rng.random(n) < 0.2 for n in (universe.n_writers, universe.n_readers, universe.n_readers)
    )
    starts = {("w", universe.writers[i]) for i in np.flatnonzero(writers)}
    starts |= {("r", universe.readers[i]) for i in np.flatnonzero(readers)}
    after = starts.union(*(nx.descendants(graph, node) for node in starts))
    assert named(universe, *forward_reach(universe, case.mask, writers=writers, readers=readers)) == after
    # A reader that leads nowhere can be depended on, but nothing in front of it is for its sake.
    pairs = [(other, name) for name in universe.writers for other in siblings(universe, name)]
    graph.add_edges_from((("w", other), ("w", name)) for other, name in pairs if other != name)
    shut = {("r", name) for name, leads in zip(universe.readers, within, strict=True) if not leads}
    graph.remove_edges_from([edge for edge in graph.edges if edge[1] in shut])
    ends = {("r", universe.readers[i]) for i in np.flatnonzero(readers)}
    before = ends.union(*(nx.ancestors(graph, node) for node in ends))
    assert named(universe, *backward_reach(universe, case.mask, readers=readers, within=within)) == before


def sides(universe: Universe, graph: nx.DiGraph) -> nx.DiGraph:
    """The graph with each node's reading and writing apart, since an MLP does both under one name."""
    split = nx.DiGraph([(("r", name), ("w", name)) for name in universe.writers if name in universe.readers])
    split.add_nodes_from([("w", name) for name in universe.writers] + [("r", name) for name in universe.readers])
    for u, v, mask in graph.edges(data="mask"):
        split.add_edge(*((("w", u), ("r", v)) if mask is not None else (("r", u), ("w", v))))
    return split


def named(universe: Universe, readers: np.ndarray, writers: np.ndarray) -> set[tuple[str, str]]:
    """Readers and writers by name and side."""
    found = {("r", universe.readers[i]) for i in np.flatnonzero(readers)}
    return found | {("w", universe.writers[i]) for i in np.flatnonzero(writers)}


@pytest.mark.parametrize("kv_heads", ["native", "per_query"])
@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_blocks_say_what_they_write(order: str, kv_heads: str) -> None:
    """By the names: a0.kv1<k> serves a0.h2 and a0.h3, an MLP itself, and the logits nothing."""
    universe = Universe(
        family="x", n_layers=2, n_heads=4, n_kv_heads=2, block_order=order, kv_heads=kv_heads, embeddings="split"
    )
    for block in universe.blocks:
        readers = universe.readers[block.readers]
        written = universe.writers[block.written]
        if block.kind == "logits":
            assert (readers, written) == (("logits",), ())
        elif block.kind == "mlp":
            assert readers == written == (f"m{block.layer}",) and not block.elsewhere.any()
        else:
            assert written == tuple(f"a{block.layer}.h{head}" for head in range(4))
            key = [f"kv{head // 2}" if kv_heads == "native" else f"h{head}" for head in range(4)]
            expected = [
                [f"a{block.layer}.{name}" for name in (f"h{head}<q>", f"{key[head]}<k>", f"{key[head]}<v>")]
                for head in range(4)
            ]
            assert [[readers[place] for place in row] for row in block.readers_of] == expected
            assert [name for name, far in zip(readers, block.elsewhere, strict=True) if far] == list(readers[4:])


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_whole_universe_is_effective_and_the_empty_one_empty(ablation: str) -> None:
    universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
    everything = np.ones(universe.n_edges, dtype=bool)
    assert effective_edges(universe, everything, ablation).all()
    assert not effective_edges(universe, ~everything, ablation).any()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_head_that_nobody_reads_matters_where_its_layer_shares_a_scale(ablation: str) -> None:
    """The logits read head 0 of the first layer; head 1 is read by nobody, and moves the scale of head 0."""
    names = [("input", "a0.h0<v>"), ("input", "a0.h1<v>"), ("input", "a1.h0<v>"), ("a0.h0", "logits")]
    for head_scale, dangling in (("own", [1, 2]), ("shared", [2])):
        universe = Universe(family="test", n_layers=2, n_heads=2, n_kv_heads=2, head_scale=head_scale)
        edges = np.array([universe.edge_index(*name) for name in names])
        kept = np.isin(np.arange(universe.n_edges), edges)
        found = effective_edges(universe, kept, ablation)
        assert np.flatnonzero(~found[edges]).tolist() == dangling
        assert int(found.sum()) == len(names) - len(dangling)
        # Under counterfactuals a head that reads nothing moves with its layer, too.
        alone = kept & (np.arange(universe.n_edges) != edges[0])
        left = effective_edges(universe, alone, "counterfactual")
        assert int(left.sum()) == (2 if head_scale == "shared" else 0)
