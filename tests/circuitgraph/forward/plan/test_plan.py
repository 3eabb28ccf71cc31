"""What runs in a step, and where: against paths in networkx, and by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given, settings

from circuitgraph.forward.plan.plan import STREAMS, StepPlan, covering_edges, plan_step, stored_writers
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.node_names import node_kind
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, Kept, kept_edges


def levels_of_readers(universe: Universe, plan: StepPlan) -> dict[str, str]:
    """The level of every running reader, by name."""
    found = {}
    for name, stream in plan.streams.items():
        for block, part in zip(universe.blocks, stream.blocks, strict=True):
            found.update({universe.readers[block.first_reader + int(r)]: name for r in part.readers})
    return found


def kept_graph(universe: Universe, kept: np.ndarray) -> nx.DiGraph:
    graph = build_graph(universe)
    graph.remove_edges_from([(u, v) for u, v, m in graph.edges(data="mask") if m is not None and not kept[m]])
    return graph


def is_key_or_value(name: str) -> bool:
    return name.endswith(("<k>", "<v>", "<qkv>"))


@settings(parent=STEADY, max_examples=100)
@given(case=kept_edges())
def test_levels_are_paths_in_the_graph(case: Kept) -> None:
    universe, kept = case.universe, case.mask
    graph = kept_graph(universe, kept)
    plan = plan_step(universe, kept, np.zeros_like(kept), constant_when_dead=False, run_dead_readers=False, local=True)
    inputs = {*universe.writers[: universe.n_embeddings], *universe.virtual}
    live = inputs.union(*(nx.descendants(graph, name) for name in inputs)) & (
        nx.ancestors(graph, "logits") | {"logits"}
    )
    found = levels_of_readers(universe, plan)
    assert set(found) == live.intersection(universe.readers) | {"logits"}
    alive = graph.subgraph(live | {"logits"})
    for name, level in found.items():
        after = nx.descendants(alive, name) | {name} if name in alive else {name}
        before = nx.ancestors(alive, name) if name in alive else set()
        if not any(is_key_or_value(other) for other in after):
            expected = "asked"
        elif not any(node_kind(other) == "head" for other in before.intersection(universe.writers)):
            expected = "local"
        else:
            expected = "reached"
        assert level == expected, name


@settings(parent=STEADY, max_examples=100)
@given(case=kept_edges())
def test_slots_hold_what_the_stream_reads(case: Kept) -> None:
    universe, kept = case.universe, case.mask
    stored = stored_writers(universe, kept, constant_when_dead=False)
    plan = plan_step(universe, kept, np.zeros_like(kept), constant_when_dead=False, run_dead_readers=False, local=True)
    seen = np.zeros(universe.n_edges + 1, dtype=bool)
    for stream in plan.streams.values():
        edges = stream.edges
        seen[edges[edges < universe.n_edges]] = True
        # Every slot is read by some reader of the stream.
        assert np.append(kept, False)[edges].any(0).all()
    writers, _ = universe.endpoints(np.flatnonzero(kept))
    needed = np.flatnonzero(kept)[stored[writers]]
    running = set(levels_of_readers(universe, plan))
    for edge in needed:
        name = universe.edge_name(int(edge)).split("->")[1]
        assert seen[edge] == (name in running)


@settings(parent=STEADY, max_examples=100)
@given(case=kept_edges(), other=kept_edges())
def test_edges_that_a_plan_covers_run_nothing_more(case: Kept, other: Kept) -> None:
    """With all of them open, or any, what runs is what the live ones run, and where."""
    universe, kept = case.universe, case.mask
    rules = {"constant_when_dead": False, "run_dead_readers": False}
    live = effective_edges(universe, kept, "counterfactual")
    covered = covering_edges(universe, live, **rules)
    assert not (live & ~covered).any()
    wanted = np.zeros_like(kept)
    expected = levels_of_readers(universe, plan_step(universe, live, wanted, **rules))
    assert levels_of_readers(universe, plan_step(universe, covered, wanted, **rules)) == expected
    some = covered & np.resize(other.mask, covered.shape)
    found = levels_of_readers(universe, plan_step(universe, some, wanted, **rules))
    assert set(found) <= set(expected)
    assert all(expected[name] == "reached" or level == "asked" for name, level in found.items())


def test_what_a_plan_covers_by_hand() -> None:
    """m0 is needed everywhere, for a value hangs on it; a1.h0 and m1 where the logits are asked alone."""
    universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
    index = {universe.edge_name(edge): edge for edge in range(universe.n_edges)}
    live = np.zeros(universe.n_edges, dtype=bool)
    live[[index[name] for name in ("input->m0", "m0->a1.h0<v>", "a1.h0->m1", "m1->logits")]] = True
    covered = covering_edges(universe, live, constant_when_dead=False, run_dead_readers=False)
    assert sorted(universe.edge_name(int(edge)) for edge in np.flatnonzero(covered)) == [
        "a1.h0->logits", "a1.h0->m1", "input->a1.h0<v>", "input->logits", "input->m0", "input->m1", "m0->a1.h0<v>",
        "m0->logits", "m0->m1", "m1->logits",
    ]  # fmt: skip


def plan_of(edges: list[str], *, wanted: tuple[str, ...] = ()) -> tuple[Universe, StepPlan]:
    """The plan of a circuit of two layers with two heads each."""
    universe = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2)
    index = {universe.edge_name(edge): edge for edge in range(universe.n_edges)}
    active, wants = np.zeros(universe.n_edges, dtype=bool), np.zeros(universe.n_edges, dtype=bool)
    active[[index[name] for name in edges]] = True
    wants[[index[name] for name in wanted]] = True
    return universe, plan_step(
        universe, active | wants, wants, constant_when_dead=False, run_dead_readers=False, local=True
    )


def test_levels_by_hand() -> None:
    universe, plan = plan_of(["input->m0", "m0->a1.h0<v>", "input->a1.h0<q>", "a1.h0->m1", "m1->logits"])
    assert levels_of_readers(universe, plan) == {
        "m0": "local",  # a value hangs on it, and no attention feeds it
        "a1.h0<v>": "local",
        "a1.h0<q>": "asked",
        "m1": "asked",
        "logits": "asked",
    }
    assert plan.mlps == (("local",), ("asked",))
    assert [{name: heads.tolist() for name, heads in layer.items()} for layer in plan.heads] == [{}, {"asked": [0]}]
    assert (plan.live_heads, plan.live_mlps) == (1, 2)


def test_no_gradient_below_the_first_wanted_gate() -> None:
    edges = ["input->m0", "m0->a1.h0<v>", "a1.h0->m1", "m1->logits"]
    universe, plan = plan_of(edges, wanted=("a1.h1->m1", "input->a1.h1<v>"))
    differentiable = {
        (STREAMS.index(name), block.kind, block.layer)
        for name, stream in plan.streams.items()
        for block, part in zip(universe.blocks, stream.blocks, strict=True)
        if len(part.readers) and part.differentiable
    }
    assert differentiable == {(0, "attention", 1), (2, "mlp", 1), (2, "logits", 2)}
