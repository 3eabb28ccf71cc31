"""Quotients, communities and motifs, against networkx and the universe's whole graph."""

from __future__ import annotations

import subprocess
import sys

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from analysis.overlap.degree_preserving import ROUNDS, EdgeSet, trade
from analysis.structure.coarse import coarse_graph
from analysis.structure.communities import communities
from analysis.structure.motifs import motifs
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.node_names import node_kind, node_layer
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

NAMES = [name for name in UNIVERSES if name != "hand"]


def group(by: str, name: str) -> str:
    kind, layer = node_kind(name), node_layer(name)
    if by == "module":
        return name
    if by == "kind":
        return kind
    if by == "sublayer":
        return f"a{layer}" if kind == "head" else name
    return kind if layer is None else f"layer {layer}"


def pairs_of_groups(graph: nx.DiGraph, by: str) -> dict[tuple[str, str], list[str]]:
    """Maskable edges of a graph by the groups they join, from its structural edges."""
    found: dict[tuple[str, str], list[str]] = {}
    for u, v, kind in graph.edges(data="kind"):
        if kind == "structural":
            continue
        modules = list(graph.successors(v)) if "<" in v else [v]
        for pair in {(group(by, u), group(by, module)) for module in modules}:
            found.setdefault(pair, []).append(f"{u}->{v}")
    return found


@pytest.mark.parametrize("by", ["module", "sublayer", "layer", "kind"])
@pytest.mark.parametrize("name", NAMES)
def test_the_quotient(name: str, by: str) -> None:
    circuit = random_circuit(name, 8)
    graph = coarse_graph(circuit, by)
    kept, whole = pairs_of_groups(circuit.graph, by), pairs_of_groups(build_graph(circuit.universe), by)
    score = dict(zip(circuit, abs(circuit.scores).tolist(), strict=True))
    kinds = dict(zip(circuit, circuit.kinds, strict=True))
    assert set(graph.edges) == set(kept)
    for edge, values in graph.edges.items():
        assert values["n_edges"] == len(kept[edge])
        assert values["n_universe"] == len(whole[edge])
        assert values["density"] == len(kept[edge]) / len(whole[edge])
        assert values["score"] == pytest.approx(sum(score[name] for name in kept[edge]))
        assert values["max_score"] == max(score[name] for name in kept[edge])
        assert set(values["kinds"].split(",")) == {kinds[name] for name in kept[edge]}
    modules = [n for n, kind in circuit.graph.nodes(data="kind") if kind in ("embedding", "head", "mlp", "logits")]
    assert list(graph) == list(dict.fromkeys(group(by, module) for module in modules))
    for node, values in graph.nodes.items():
        members = [module for module in modules if group(by, module) == node]
        assert values["n_modules"] == len(members)
        layers = {circuit.graph.nodes[module]["layer"] for module in members}
        assert values.get("layer") == (layers.pop() if len(layers) == 1 else None)


def test_groups_by_mapping_and_function() -> None:
    circuit = hand_circuit()
    halves = coarse_graph(circuit, lambda name: "early" if name in ("input", "a0.h0", "a0.h1", "m0") else "late")
    assert {edge: values["n_edges"] for edge, values in halves.edges.items()} == {
        ("early", "early"): 3,
        ("early", "late"): 3,
        ("late", "late"): 1,
    }
    # m1, which the circuit lacks, is in no group, and so the edges into it count nowhere.
    chosen = {"input": "in", "a0.h0": "a", "a0.h1": "a", "m0": "m", "a1.h0": "a", "logits": "out"}
    assert coarse_graph(circuit, chosen).edges["in", "m"]["n_universe"] == 1
    with pytest.raises(ConfigurationError, match="gives a1.h0 the group None"):
        coarse_graph(circuit, {**chosen, "a1.h0": None})
    with pytest.raises(ConfigurationError, match="gives logits the group None"):
        coarse_graph(circuit, {name: label for name, label in chosen.items() if name != "logits"})
    with pytest.raises(UnknownNameError, match="unknown grouping 'layers'; did you mean 'layer'"):
        coarse_graph(circuit, "layers")


def test_the_quotient_of_nothing() -> None:
    assert len(coarse_graph(Circuit.from_edges(UNIVERSES["mha"], []))) == 0


# -------------------------------------------------------------------- communities


def module_graph(circuit: Circuit, weight: str) -> nx.DiGraph:
    """Modules and the weight between them, from the circuit's own graph."""
    graph = nx.DiGraph()
    fine = circuit.graph
    for u, v, values in fine.edges(data=True):
        if values["kind"] == "structural":
            continue
        for module in list(fine.successors(v)) if "<" in v else [v]:
            before = graph.get_edge_data(u, module, {"weight": 0})["weight"]
            graph.add_edge(u, module, weight=before + (abs(values["score"]) if weight == "score" else 1))
    return graph


@pytest.mark.parametrize("weight", ["score", "count"])
@pytest.mark.parametrize("name", NAMES)
def test_communities_are_no_worse_than_those_of_a_greedy_search(name: str, weight: str) -> None:
    circuit = random_circuit(name, 9)
    graph = module_graph(circuit, weight)
    found = communities(circuit, weight=weight, seed=3)
    parts = [set(part["node"]) for _, part in found.table.groupby("community")]
    assert set().union(*parts) == set(graph)
    assert found.n_communities == len(parts)
    assert found.modularity == pytest.approx(nx.community.modularity(graph, parts, weight="weight"))
    greedy = nx.community.greedy_modularity_communities(graph, weight="weight")
    assert found.modularity >= nx.community.modularity(graph, greedy, weight="weight") - 0.03
    assert found.modularity > nx.community.modularity(graph, [set(graph)], weight="weight")
    sizes = found.table.groupby("community").size().tolist()
    assert sizes == sorted(sizes, reverse=True)
    inside = {name: part for part in parts for name in part}
    for row in found.table.to_dict("records"):
        edges = [*graph.in_edges(row["node"], data="weight"), *graph.out_edges(row["node"], data="weight")]
        within = sum(size for u, v, size in edges if inside[u] == inside[v])
        assert row["within"] == pytest.approx(within)
        assert row["across"] == pytest.approx(sum(size for *_, size in edges) - within)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_partition_in_another_process() -> None:
    code = (
        "from analysis.structure.communities import communities\n"
        "from tests.analysis.small_circuits import random_circuit\n"
        "found = communities(random_circuit('parallel', 1), seed=5)\n"
        "print(found.table['community'].tolist(), found.modularity)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(runs) == 1
    assert len(runs.pop()) > 20


def test_communities_need_weight() -> None:
    with pytest.raises(ConfigurationError, match="the circuit has no edges"):
        communities(Circuit.from_edges(UNIVERSES["mha"], []))
    zeros = Circuit.from_edges(UNIVERSES["mha"], {"input->m0": 0.0, "m0->logits": 0.0})
    with pytest.raises(ConfigurationError, match="all scores are 0; pass weight='count'"):
        communities(zeros)
    assert communities(zeros, weight="count").n_communities >= 1
    with pytest.raises(UnknownNameError, match="unknown weight 'counts'; did you mean 'count'"):
        communities(zeros, weight="counts")
    with pytest.raises(ConfigurationError, match="above 0; got 0"):
        communities(zeros, resolution=0)


def test_communities_leave_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].tolist()
    communities(random_circuit("mha", 1))
    motifs(random_circuit("mha", 1), n_samples=3)
    assert np.random.get_state()[1].tolist() == before


# -------------------------------------------------------------------- motifs


@pytest.mark.parametrize("name", NAMES)
def test_motifs_are_the_triads_of_networkx(name: str) -> None:
    circuit = random_circuit(name, 10)
    census = nx.triadic_census(module_graph(circuit, "count"))
    counts = motifs(circuit).set_index("motif")["count"]
    named = {"chain": "021C", "fan-out": "021D", "fan-in": "021U", "feed-forward loop": "030T"}
    assert {motif: counts[motif] for motif in named} == {motif: census[triad] for motif, triad in named.items()}
    assert counts["feed-forward loop"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_composition_chains_one_by_one(name: str) -> None:
    circuit = random_circuit(name, 0)
    graph, heads = circuit.graph, set(circuit.heads)
    steps = [
        (u, head, kind)
        for u, v, kind in graph.edges(data="kind")
        if u in heads and kind in ("q", "k", "v", "qkv")
        for head in graph.successors(v)
    ]
    counts = motifs(circuit).set_index("motif")["count"]
    chains = [name for name in counts.index if name.startswith("composition")]
    assert len(chains) == (1 if name == "joint" else 9)
    for chain in chains:
        one, two = chain.removeprefix("composition ").split(", ")
        expected = [(a, b, c) for a, b, k in steps if k == one for b2, c, k2 in steps if b2 == b and k2 == two]
        assert counts[chain] == len(expected)


def test_samples_give_p_values_that_count_them() -> None:
    circuit = random_circuit("parallel", 3)
    table = motifs(circuit, n_samples=19, seed=1).set_index("motif")
    # The same draws, each made a circuit and counted on its own.
    rng = np.random.default_rng(1)
    hub = trade(EdgeSet.of(circuit.universe, circuit.edge_ids), ROUNDS, rng)
    drawn = [Circuit.from_edges(circuit.universe, trade(hub, ROUNDS, rng).edge_ids) for _ in range(19)]
    samples = pd.DataFrame([motifs(other).set_index("motif")["count"] for other in drawn])
    n_tied = 0
    for motif, row in table.iterrows():
        counts = samples[motif].tolist()
        assert row["expected"] == pytest.approx(sum(counts) / 19)
        assert row["sd"] == pytest.approx((sum((n - sum(counts) / 19) ** 2 for n in counts) / 19) ** 0.5)
        assert row["p_more"] == (1 + sum(n >= row["count"] for n in counts)) / 20
        assert row["p_fewer"] == (1 + sum(n <= row["count"] for n in counts)) / 20
        n_tied += row["count"] in counts
    assert n_tied > 3
    assert not table["expected"].equals(motifs(circuit, n_samples=19, seed=2).set_index("motif")["expected"])


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_the_same_degrees_leave_nothing_dangling(name: str) -> None:
    circuit, rng = random_circuit(name, 4), np.random.default_rng(0)
    drawn = [trade(EdgeSet.of(circuit.universe, circuit.edge_ids), 5, rng).edge_ids for _ in range(5)]
    assert [len(Circuit.from_edges(circuit.universe, edges)) for edges in drawn] == [len(circuit)] * 5
    assert any(set(edges.tolist()) != set(circuit.edge_ids.tolist()) for edges in drawn)


def test_a_planted_loop_is_rare_by_chance() -> None:
    # Eight loops m_i -> m_j -> m_k, m_i -> m_k that share no edge; trades would scatter them.
    universe = type(UNIVERSES["mha"])(family="gpt2", n_layers=24, n_heads=1, n_kv_heads=1)
    edges = []
    for start in range(0, 24, 3):
        a, b, c = (f"m{start + step}" for step in range(3))
        edges += [f"input->{a}", f"{a}->{b}", f"{b}->{c}", f"{a}->{c}", f"{c}->logits"]
    table = motifs(Circuit.from_edges(universe, edges), n_samples=199).set_index("motif")
    assert table.loc["feed-forward loop", "count"] == 8
    assert table.loc["feed-forward loop", "expected"] < 5
    assert table.loc["feed-forward loop", "p_more"] <= 0.01


def test_motifs_of_nothing() -> None:
    empty = Circuit.from_edges(UNIVERSES["gqa"], [])
    assert motifs(empty)["count"].sum() == 0
    table = motifs(empty, n_samples=2)
    assert table["p_more"].tolist() == table["p_fewer"].tolist() == [1.0] * len(table)
    with pytest.raises(ConfigurationError, match="0 or more samples"):
        motifs(empty, n_samples=-1)
