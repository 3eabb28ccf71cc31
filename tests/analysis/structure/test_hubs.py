"""Degrees, reachability, betweenness and composition, against networkx and definitions spelt out."""

from __future__ import annotations

from itertools import product

import networkx as nx
import pandas as pd
import pytest

from analysis.structure.betweenness import betweenness
from analysis.structure.composition import composition, composition_counts
from analysis.structure.hubs import hubs, reachability
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.build import build_graph
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

NAMES = [name for name in UNIVERSES if name != "hand"]
MODULES = ("embedding", "head", "mlp", "logits")


def modules_in(graph: nx.DiGraph) -> list[str]:
    return [name for name, kind in graph.nodes(data="kind") if kind in MODULES]


def readers_of(graph: nx.DiGraph, module: str) -> list[str]:
    before = [u for u, _, kind in graph.in_edges(module, data="kind") if kind == "structural"]
    return before or [module]


@pytest.mark.parametrize("name", NAMES)
def test_degrees(name: str) -> None:
    circuit = random_circuit(name, 4)
    graph, whole = circuit.graph, build_graph(circuit.universe)
    table = hubs(circuit).set_index("node")
    assert sorted(table.index) == sorted(modules_in(graph))
    for module in modules_in(graph):
        into = [edge for reader in readers_of(graph, module) for edge in graph.in_edges(reader, data=True)]
        out = [edge for edge in graph.out_edges(module, data=True) if edge[2]["kind"] != "structural"]
        row = table.loc[module]
        assert (row["in_degree"], row["out_degree"], row["degree"]) == (len(into), len(out), len(into) + len(out))
        assert row["in_score"] == pytest.approx(sum(abs(values["score"]) for *_, values in into))
        assert row["out_score"] == pytest.approx(sum(abs(values["score"]) for *_, values in out))
        for port in ("q", "k", "v", "qkv"):
            assert row[f"in_{port}"] == sum(values["kind"] == port for *_, values in into)
        assert row["in_possible"] == sum(whole.in_degree(reader) for reader in readers_of(whole, module))
        assert row["out_possible"] == sum("mask" in values for *_, values in whole.out_edges(module, data=True))
    assert table["degree"].is_monotonic_decreasing


def test_degrees_can_be_sorted_otherwise() -> None:
    table = hubs(hand_circuit(), by="in_k")
    assert table.loc[0, "node"] == "a1.h0"
    assert hubs(hand_circuit(), by="layer")["layer"].is_monotonic_increasing
    # The shared value reader of the hand circuit counts for both heads.
    assert table.set_index("node").loc[["a0.h0", "a0.h1"], "in_v"].tolist() == [1, 1]
    with pytest.raises(UnknownNameError, match="unknown column 'in_degre'; did you mean 'in_degree'"):
        hubs(hand_circuit(), by="in_degre")


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_reachability(name: str, ablation: str) -> None:
    circuit = random_circuit(name, 5, ablation=ablation)
    graph = circuit.graph
    modules = set(modules_in(graph))
    table = reachability(circuit).set_index("node")
    assert list(table.index) == list(circuit.nodes)
    paths = {
        (node, end): [
            sum(graph.edges[edge]["kind"] != "structural" for edge in nx.utils.pairwise(path))
            for path in nx.all_simple_paths(graph, *((end, node) if end != "logits" else (node, end)))
        ]
        for node, end in product(graph, ["input", "tok", "pos", "logits"])
        if end in graph
    }
    for node in graph:
        row = table.loc[node]
        assert row["n_before"] == len(nx.ancestors(graph, node) & modules)
        assert row["n_after"] == len(nx.descendants(graph, node) & modules)
        ways_in = [n for end in ("input", "tok", "pos") for n in paths.get((node, end), [])]
        ways_in += [0] if node in ("input", "tok", "pos") else []
        ways_out = paths.get((node, "logits"), []) + ([0] if node == "logits" else [])
        for column, ways, choose in (
            ("shortest_in", ways_in, min),
            ("longest_in", ways_in, max),
            ("shortest_out", ways_out, min),
            ("longest_out", ways_out, max),
        ):
            assert (row[column] is pd.NA) == (not ways)
            assert not ways or row[column] == choose(ways)


def test_a_writer_without_inputs_is_no_number_away() -> None:
    circuit = Circuit.from_edges(UNIVERSES["mha"], ["m0->m1", "m1->logits"], ablation="zero")
    table = reachability(circuit).set_index("node")
    assert table.loc["m0", "shortest_in"] is pd.NA
    assert table.loc["m0", "longest_out"] == 2


# -------------------------------------------------------------------- betweenness


def by_brute_force(circuit: Circuit, length: str, between: str) -> dict[str, float]:
    """Betweenness from a list of all paths, as exact sums of the definition."""
    graph = circuit.graph
    modules = modules_in(graph)
    for _, _, values in graph.edges(data=True):
        score = values.get("score")
        values["length"] = 0 if score is None else 1 if length == "hops" else 1 / abs(score) if score else float("inf")
    pairs = [(s, t) for s, t in product(modules, modules) if s != t]
    if between == "ends":
        pairs = [(s, t) for s, t in pairs if s in ("input", "tok", "pos") and t == "logits"]
    total, n_joined = dict.fromkeys(modules, 0.0), 0
    for source, target in pairs:
        paths = list(nx.all_simple_paths(graph, source, target))
        size = [sum(graph.edges[edge]["length"] for edge in nx.utils.pairwise(path)) for path in paths]
        if not paths or min(size) == float("inf"):
            continue
        n_joined += 1
        best = [path for path, n in zip(paths, size, strict=True) if n <= min(size) + 1e-9]
        for path in best:
            for node in path[1:-1]:
                if node in total:
                    total[node] += 1 / len(best)
    n_pairs = n_joined if between == "ends" else (len(modules) - 1) * (len(modules) - 2)
    return {name: value / max(n_pairs, 1) for name, value in total.items()}


@pytest.mark.parametrize("between", ["modules", "ends"])
@pytest.mark.parametrize(("length", "scores"), [("inverse", "normal"), ("inverse", "ties"), ("hops", "normal")])
@pytest.mark.parametrize("name", NAMES)
def test_betweenness_from_all_paths(name: str, length: str, scores: str, between: str) -> None:
    circuit = random_circuit(name, 6, scores=scores)
    table = betweenness(circuit, length=length, between=between)
    assert dict(zip(table["node"], table["betweenness"], strict=True)) == pytest.approx(
        by_brute_force(circuit, length, between)
    )
    assert table["betweenness"].is_monotonic_decreasing


def test_betweenness_of_mlps_is_that_of_networkx() -> None:
    # Without heads there are no structural edges, and every length is positive.
    universe = UNIVERSES["parallel"]
    deep = type(universe)(family="gpt2", n_layers=9, n_heads=1, n_kv_heads=1)
    names = ["input", *(f"m{layer}" for layer in range(9)), "logits"]
    edges = [f"{names[i]}->{names[j]}" for i, j in product(range(11), range(11)) if i < j and (3 * i + 5 * j) % 4]
    circuit = Circuit.from_edges(deep, edges, scores=[1 + (7 * index) % 5 for index in range(len(edges))])
    graph = circuit.graph
    for _, _, values in graph.edges(data=True):
        values["length"] = 1 / values["score"]
    table = betweenness(circuit)
    got = dict(zip(table["node"], table["betweenness"], strict=True))
    assert got == pytest.approx(nx.betweenness_centrality(graph, weight="length"))
    assert max(got.values()) > 0.05


def test_sources_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = random_circuit("parallel", 2)
    whole = betweenness(circuit)
    monkeypatch.setattr("analysis.structure.betweenness._AT_ONCE", 3)
    pd.testing.assert_frame_equal(whole, betweenness(circuit))


def test_betweenness_of_next_to_nothing() -> None:
    assert len(betweenness(Circuit.from_edges(UNIVERSES["mha"], []))) == 0
    direct = Circuit.from_edges(UNIVERSES["mha"], ["input->logits"])
    for between in ("modules", "ends"):
        assert betweenness(direct, between=between)["betweenness"].tolist() == [0, 0]
    zero = Circuit.from_edges(UNIVERSES["mha"], {"input->m0": 0.0, "m0->logits": 1.0})
    assert betweenness(zero, between="ends")["betweenness"].tolist() == [0, 0, 0]
    assert betweenness(zero, between="ends", length="hops").loc[0, "betweenness"] == 1
    with pytest.raises(UnknownNameError, match="unknown length 'hop'; did you mean 'hops'"):
        betweenness(direct, length="hop")
    with pytest.raises(UnknownNameError, match="unknown pairs 'end'; did you mean 'ends'"):
        betweenness(direct, between="end")


# -------------------------------------------------------------------- composition


@pytest.mark.parametrize("name", NAMES)
def test_composition(name: str) -> None:
    circuit = random_circuit(name, 7)
    graph, whole = circuit.graph, build_graph(circuit.universe)
    heads = {node for node, kind in graph.nodes(data="kind") if kind == "head"}
    expected = {
        (source, head, values["kind"], values["score"])
        for source, reader, values in graph.edges(data=True)
        if source in heads and values["kind"] in ("q", "k", "v", "qkv")
        for head in graph.successors(reader)
    }
    table = composition(circuit)
    columns = [table[column] for column in ("source", "target", "kind", "score")]
    assert set(zip(*columns, strict=True)) == expected
    assert len(table) == len(expected) > 0
    assert table["score"].abs().is_monotonic_decreasing
    for row in table.to_dict("records"):
        assert row["n_sharing"] == graph.out_degree(row["edge"].split("->")[1])
        assert row["source_layer"] < row["target_layer"]
    counts = composition_counts(circuit).set_index("kind")
    for kind, row in counts.iterrows():
        kept = {(u, v) for u, v, k in graph.edges(data="kind") if u in heads and k == kind}
        possible = [u for u, _, k in whole.edges(data="kind") if whole.nodes[u]["kind"] == "head" and k == kind]
        assert (row["n_edges"], row["n_universe"]) == (len(kept), len(possible))
        assert row["share"] == len(kept) / len(possible)
        assert row["score"] == pytest.approx(sum(abs(graph.edges[edge]["score"]) for edge in kept))
        assert row["n_sources"] == len({u for u, _ in kept})
        assert row["n_targets"] == len({head for _, v in kept for head in graph.successors(v)})


def test_composition_of_nothing() -> None:
    empty = Circuit.from_edges(UNIVERSES["gqa"], [])
    assert len(composition(empty)) == len(hubs(empty)) == len(reachability(empty)) == 0
    assert composition_counts(empty)["share"].tolist() == [0, 0, 0]
    shallow = type(empty.universe)(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
    assert composition_counts(Circuit.from_edges(shallow, []))[["n_universe", "share"]].to_numpy().sum() == 0
