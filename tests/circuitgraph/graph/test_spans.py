"""Universes with spans: counts by hand, names both ways, the graph, and both sweeps against paths in networkx."""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitgraph.errors import CircuitGraphError, ConfigurationError, UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.liveness import backward_reach, effective_edges, forward_reach, the_logits, the_sources
from circuitgraph.graph.node_names import node_kind, node_layer, node_span
from circuitgraph.graph.spans import SpannedUniverse, with_spans
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.test_liveness import kept_graph, named, siblings, sides
from tests.circuitgraph.graph.universes import STEADY, universes

ONE_HEAD = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A universe with spans and some of its edges, made outside of hypothesis' own drawing."""

    plain: Universe
    names: tuple[str, ...]
    asked: frozenset[str]
    seed: int
    density: float

    @property
    def universe(self) -> SpannedUniverse:
        asked = [name for name in self.names if name in self.asked]
        return with_spans(replace(self.plain, virtual=()), self.names, asked=asked)

    @property
    def kept(self) -> np.ndarray:
        return np.random.default_rng(self.seed).random(self.universe.n_edges) < self.density


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = ("start", "name", "end")[: draw(st.integers(1, 3))]
    return Case(
        plain=draw(universes(max_layers=2)),
        names=names,
        asked=frozenset(draw(st.sets(st.sampled_from(names), min_size=1))),
        seed=draw(st.integers(0, 2**32 - 1)),
        density=draw(st.sampled_from([0.03, 0.1, 0.3, 0.7, 1.0])),
    )


def test_counts_by_hand() -> None:
    """Per span input->q,k,v; input,a0.h0->m0; and where logits are asked input,a0.h0,m0->logits."""
    both = with_spans(ONE_HEAD, ("a", "b"), asked=("b",))
    assert (both.n_edges, both.n_writers, both.n_readers) == (5 + 8, 6, 4 + 5)
    assert both.readers == (
        "a0.h0<q>@a", "a0.h0<k>@a", "a0.h0<v>@a", "m0@a",
        "a0.h0<q>@b", "a0.h0<k>@b", "a0.h0<v>@b", "m0@b", "logits@b",
    )  # fmt: skip
    assert both.span_of_edge.tolist() == [0] * 5 + [1] * 8
    assert set(both.structural_edges()) == {
        ("a0.h0<q>@a", "a0.h0@a"), ("a0.h0<k>@a", "a0.h0@a"), ("a0.h0<v>@a", "a0.h0@a"),
        ("a0.h0<q>@b", "a0.h0@b"), ("a0.h0<k>@a", "a0.h0@b"), ("a0.h0<v>@a", "a0.h0@b"),
        ("a0.h0<k>@b", "a0.h0@b"), ("a0.h0<v>@b", "a0.h0@b"),
    }  # fmt: skip


@settings(parent=STEADY, max_examples=25)
@given(case=cases())
def test_names_and_indices_go_both_ways(case: Case) -> None:
    universe = case.universe
    graph = build_graph(universe)
    masks = {data["mask"]: (u, v) for u, v, data in graph.edges(data=True) if "mask" in data}
    assert sorted(masks) == list(range(universe.n_edges))
    place = {name: index for index, name in enumerate(graph)}
    assert set(place) == {*universe.writers, *universe.readers}
    assert all(place[u] < place[v] for u, v in graph.edges)
    spans = universe.span_of_edge
    for mask, (writer, reader) in masks.items():
        assert universe.edge_index(writer, reader) == mask
        assert universe.edge_name(mask) == f"{writer}->{reader}"
        assert node_span(writer) == node_span(reader) == universe.spans[spans[mask]]
        kind, layer = node_kind(reader), node_layer(reader)
        assert graph.edges[writer, reader]["kind"] == kind
        index = universe.readers.index(reader)
        assert universe.reader_kinds[index] == kind
        assert universe.reader_layers[index] == (universe.n_layers if layer is None else layer)
    assert Universe.from_dict(universe.to_dict()) == universe
    assert universe.without_spans == Universe.from_dict(
        {name: value for name, value in universe.to_dict().items() if "span" not in name}
    )
    assert GateMap.from_graph(universe, graph).edits["sha256"] == GateMap.identity(universe).edits["sha256"]


@settings(parent=STEADY, max_examples=100)
@given(case=cases())
def test_effective_edges_lie_on_paths(case: Case) -> None:
    universe, kept = case.universe, case.kept
    graph = kept_graph(universe, kept)
    inputs = [name for name in universe.writers if node_kind(name) == "embedding"]
    outputs = [name for name in universe.readers if node_kind(name) == "logits"]
    behind = set(inputs).union(*(nx.descendants(graph, name) for name in inputs))
    before = set(outputs).union(*(nx.ancestors(graph, name) for name in outputs))
    masks = [(u, v, mask) for u, v, mask in graph.edges(data="mask") if mask is not None]
    for ablation in ("counterfactual", "zero"):
        expected = {m for u, v, m in masks if v in before and (u in behind or ablation == "zero")}
        assert set(np.flatnonzero(effective_edges(universe, kept, ablation)).tolist()) == expected


@settings(parent=STEADY, max_examples=60)
@given(case=cases(), seed=st.integers(0, 999))
def test_sweeps_from_anywhere(case: Case, seed: int) -> None:
    universe, kept, rng = case.universe, case.kept, np.random.default_rng(seed)
    graph = sides(universe, kept_graph(universe, kept))
    writers, readers = (rng.random(n) < 0.2 for n in (universe.n_writers, universe.n_readers))
    starts = {("w", universe.writers[i]) for i in np.flatnonzero(writers)}
    starts |= {("r", universe.readers[i]) for i in np.flatnonzero(readers)}
    after = starts.union(*(nx.descendants(graph, node) for node in starts))
    assert named(universe, *forward_reach(universe, kept, writers=writers, readers=readers)) == after
    if universe.head_scale == "shared":
        pairs = [
            (other, name)
            for name in universe.writers
            for other in siblings(universe, name)
            if node_span(other) == node_span(name)
        ]
        graph.add_edges_from((("w", other), ("w", name)) for other, name in pairs if other != name)
    ends = {("r", universe.readers[i]) for i in np.flatnonzero(readers)}
    before = ends.union(*(nx.ancestors(graph, node) for node in ends))
    assert named(universe, *backward_reach(universe, kept, readers=readers)) == before


def test_one_span_is_the_universe_without() -> None:
    plain = Universe(family="x", n_layers=2, n_heads=2, n_kv_heads=1)
    one = with_spans(plain, ("all",), asked=("all",))
    kept = np.random.default_rng(0).random(plain.n_edges) < 0.3
    assert one.n_edges == plain.n_edges
    assert np.array_equal(effective_edges(one, kept, "counterfactual"), effective_edges(plain, kept, "counterfactual"))
    assert np.array_equal(the_logits(one), the_logits(plain))
    assert np.array_equal(the_sources(one), the_sources(plain))


@pytest.mark.parametrize(
    ("spans", "asked", "words"),
    [
        (("a", "a"), ("a",), "'a' comes twice"),
        (("a", "b c"), ("a",), "'b c'"),
        (("a", "1"), ("a",), "begins with a letter; got '1'"),
        (("a", "b"), ("c",), "must be some of the spans a, b"),
        (("a", "b"), ("b", "a"), "in their order"),
        ((), ("a",), "at least one"),
        (("a",), (), "asked_spans: expected at least one"),
    ],
)
def test_bad_names_are_refused(spans: tuple[str, ...], asked: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        with_spans(ONE_HEAD, spans, asked=asked)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("input@a", "m0@b", "an edge has one span"),
        ("input", "m0@b", "a name says its own, such as input@a"),
        ("input@a", "logits@a", "nothing is asked at this span"),
        ("input@c", "m0@c", "unknown span 'c'"),
        ("m0@b", "a0.h0<q>@b", "reads before"),
        ("m7@b", "m0@b", "unknown writer"),
    ],
)
def test_unknown_edges_say_why(source: str, target: str, words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        with_spans(ONE_HEAD, ("a", "b"), asked=("b",)).edge_index(source, target)


def test_who_walks_blocks_refuses_by_name() -> None:
    spanned = with_spans(ONE_HEAD, ("a", "b"), asked=("b",))
    with pytest.raises(CircuitGraphError, match=r"does not know spans .* 2 \(a, b\)"):
        _ = spanned.blocks
    with pytest.raises(ConfigurationError, match="has spans already"):
        with_spans(spanned, ("c",), asked=("c",))
