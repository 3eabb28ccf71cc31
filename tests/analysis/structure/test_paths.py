"""Strongest paths and path counts, against paths listed one by one by networkx."""

from __future__ import annotations

import math
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from analysis.structure.paths import count_paths, path_counts, strongest_paths
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, random_circuit

NAMES = [name for name in UNIVERSES if name != "hand"]


def all_paths(circuit: Circuit, sources: list[str], targets: list[str]) -> list[list[str]]:
    graph = circuit.graph
    found = []
    for source in sources:
        for target in targets:
            if source in graph and target in graph:
                found += nx.all_simple_paths(graph, source, target)
    return found


def scores_on(graph: nx.DiGraph, path: list[str]) -> list[float]:
    steps = [graph.edges[edge] for edge in pairwise(path)]
    return [step["score"] for step in steps if step["kind"] != "structural"]


def sort_key(by: str, scores: list[float], largest: float) -> tuple:
    """The larger, the stronger, written from the definition and not as the code does it."""
    if by == "product":
        zeros = scores.count(0.0)
        logs = sum(math.log(abs(score) / largest) for score in scores if score)
        return -zeros, round(logs, 9), -len(scores)
    values = sorted(scores) if by == "lowest" else sorted(map(abs, scores))
    return (*values, *[math.inf] * (20 - len(values)))


def embeddings(circuit: Circuit) -> list[str]:
    return list(circuit.universe.writers[: circuit.universe.n_embeddings])


@pytest.mark.parametrize("by", ["weakest", "lowest", "product"])
@pytest.mark.parametrize("scores", ["normal", "ties", "equal"])
@pytest.mark.parametrize("name", NAMES)
def test_the_k_best_are_those_of_brute_force(name: str, scores: str, by: str) -> None:
    n_long = 0
    for seed in range(3):
        circuit = random_circuit(name, seed, scores=scores)
        graph, largest = circuit.graph, max(map(abs, circuit.scores))
        paths = all_paths(circuit, embeddings(circuit), ["logits"])
        keys = sorted((sort_key(by, scores_on(graph, path), largest) for path in paths), reverse=True)
        table = strongest_paths(circuit, 7, by=by)
        assert len(table) == min(7, len(paths))
        assert table["rank"].tolist() == list(range(1, len(table) + 1))
        got = [list(nodes) for nodes in table["nodes"]]
        assert len({tuple(path) for path in got}) == len(got)
        assert all(path in paths for path in got)
        assert [sort_key(by, scores_on(graph, path), largest) for path in got] == keys[:7]
        n_long += len(paths) > 7
    assert n_long >= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_columns_say_what_is_on_the_path(name: str) -> None:
    circuit = random_circuit(name, 3, scores="ties")
    graph, largest = circuit.graph, max(map(abs, circuit.scores))
    for by in ("weakest", "lowest", "product"):
        for row in strongest_paths(circuit, 30, by=by).to_dict("records"):
            scores = scores_on(graph, list(row["nodes"]))
            assert row["n_edges"] == len(scores)
            assert row["sign"] == np.sign(math.prod(scores))
            expected = {
                "weakest": min(map(abs, scores)),
                "lowest": min(scores),
                "product": math.prod(abs(score) / largest for score in scores),
            }[by]
            assert row["strength"] == pytest.approx(expected)
            weakest = graph.edges[tuple(row["weakest_edge"].split("->"))]["score"]
            assert (weakest if by == "lowest" else abs(weakest)) == min(scores if by == "lowest" else map(abs, scores))


def test_a_circuit_worked_out_by_hand() -> None:
    table = strongest_paths(hand_circuit())
    assert table["path"].tolist() == [
        "input -> a0.kv0<v> -> a0.h0 -> a1.h0<q> -> logits",
        "input -> a0.kv0<v> -> a0.h1 -> m0 -> a1.kv0<k> -> a1.h0 -> logits",
        "input -> m0 -> a1.kv0<k> -> a1.h0 -> logits",
        "input -> logits",
    ]
    assert table["strength"].tolist() == [3, 2, 1, 0.5]
    assert table["n_edges"].tolist() == [3, 4, 3, 1]
    assert table["weakest_edge"].tolist() == ["a0.h0->a1.h0<q>", "a0.h1->m0", "input->m0", "input->logits"]
    assert table["sign"].tolist() == [1, -1, -1, 1]
    assert strongest_paths(hand_circuit(), by="lowest")["strength"].tolist() == [3, 0.5, -5, -5]
    by_product = strongest_paths(hand_circuit(), by="product")
    assert by_product["strength"].tolist() == pytest.approx([4 * 3 / 36, 4 * 2 * 5 / 216, 5 / 36, 0.5 / 6])


@pytest.mark.parametrize("name", NAMES)
def test_paths_through_nodes_and_edges(name: str) -> None:
    for seed in range(2):
        circuit = random_circuit(name, seed)
        paths = all_paths(circuit, embeddings(circuit), ["logits"])
        for node in circuit.nodes[::2]:
            expected = {tuple(path) for path in paths if node in path}
            assert set(strongest_paths(circuit, 10_000, through=node)["nodes"]) == expected
            assert count_paths(circuit, through=node) == len(expected)
        for edge in list(circuit)[::3]:
            pair = tuple(edge.split("->"))
            expected = {tuple(path) for path in paths if pair in pairwise(path)}
            assert set(strongest_paths(circuit, 10_000, through=edge)["nodes"]) == expected
        first, last = circuit.nodes[1], list(circuit)[-1]
        both = [path for path in paths if first in path and tuple(last.split("->")) in pairwise(path)]
        assert count_paths(circuit, through=[first, last]) == len(both)


@pytest.mark.parametrize("name", NAMES)
def test_paths_between_other_ends(name: str) -> None:
    circuit = random_circuit(name, 1, ablation="zero")
    graph = circuit.graph
    sources = [*embeddings(circuit)[-1:], *circuit.heads[:2], *circuit.mlps[:1]]
    targets = [node for node in circuit.nodes if node not in sources and node not in embeddings(circuit)][2:]
    expected = {tuple(path) for path in all_paths(circuit, sources, targets)}
    table = strongest_paths(circuit, 10_000, sources=sources, targets=targets)
    assert set(table["nodes"]) == expected
    assert len(table) == count_paths(circuit, sources=sources, targets=targets) == len(expected) > 0
    through = targets[0]
    passing = {path for path in expected if through in path}
    assert set(strongest_paths(circuit, 10_000, sources=sources, targets=targets, through=through)["nodes"]) == passing
    assert graph.number_of_nodes() == len(path_counts(circuit))


@pytest.mark.parametrize("name", NAMES)
def test_counts_by_node(name: str) -> None:
    circuit = random_circuit(name, 2)
    paths = all_paths(circuit, embeddings(circuit), ["logits"])
    table = path_counts(circuit).set_index("node")
    assert list(table.index) == list(circuit.nodes)
    for node in circuit.nodes:
        n = sum(node in path for path in paths)
        assert table.loc[node, "n_paths"] == n
        assert table.loc[node, "n_into"] == len({tuple(path[: path.index(node)]) for path in paths if node in path})
        assert table.loc[node, "share"] == pytest.approx(n / len(paths))
        assert table.loc[node, "on_every_path"] == (n == len(paths))
    assert table.loc["logits", "on_every_path"]


def test_counts_outgrow_64_bits() -> None:
    universe = UNIVERSES["mha"]
    deep = type(universe)(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
    circuit = Circuit.from_edges(deep, np.arange(deep.n_edges))
    # Every layer multiplies: 1 + 12 heads of 3 ports + an MLP that sees 1 + 36.
    assert count_paths(circuit) == 74**12 > 2**64
    table = path_counts(circuit).set_index("node")
    assert table.loc["logits", "n_paths"] == 74**12
    assert table.loc["m11", "share"] == 0.5


def test_a_writer_without_inputs_starts_no_path() -> None:
    universe = UNIVERSES["mha"]
    circuit = Circuit.from_edges(universe, ["m0->m1", "m1->logits"], ablation="zero")
    assert len(strongest_paths(circuit)) == count_paths(circuit) == 0
    table = path_counts(circuit)
    assert table["share"].tolist() == [0.0, 0.0, 0.0]
    assert not table["on_every_path"].any()
    assert strongest_paths(circuit, sources="m0")["path"].tolist() == ["m0 -> m1 -> logits"]


def test_an_empty_circuit_has_no_paths() -> None:
    circuit = Circuit.from_edges(UNIVERSES["gqa"], [])
    table = strongest_paths(circuit)
    assert len(table) == 0
    assert list(table.columns) == ["rank", "path", "strength", "n_edges", "weakest_edge", "sign", "nodes"]
    assert count_paths(circuit) == 0
    assert len(path_counts(circuit)) == 0
    assert len(strongest_paths(circuit, through="a0.h1")) == 0


def test_scores_of_zero() -> None:
    scores = {"input->m0": 0.0, "m0->logits": 2.0, "input->logits": 0.0}
    circuit = Circuit.from_edges(UNIVERSES["mha"], scores)
    for by in ("weakest", "lowest", "product"):
        table = strongest_paths(circuit, by=by)
        assert table["strength"].tolist() == [0, 0]
        assert table["sign"].tolist() == [0, 0]
        assert table["n_edges"].tolist() == [1, 2]


def test_a_score_of_zero_is_weaker_than_the_smallest_other() -> None:
    scores = {
        "input->m0": 1.0,
        "m0->logits": 0.0,
        "input->a1.h0<v>": 1.0,
        "a1.h0->logits": 1e-300,
        "input->logits": 1e300,
    }
    table = strongest_paths(Circuit.from_edges(UNIVERSES["mha"], scores), by="product")
    assert table["path"].tolist() == ["input -> logits", "input -> a1.h0<v> -> logits", "input -> m0 -> logits"]


def test_bad_arguments() -> None:
    circuit = hand_circuit()
    for k in (0, -1, True):
        with pytest.raises(ConfigurationError, match="at least 1; got"):
            strongest_paths(circuit, k)
    with pytest.raises(UnknownNameError, match="unknown strength of paths 'weak'; did you mean 'weakest'"):
        strongest_paths(circuit, by="weak")
    with pytest.raises(UnknownNameError, match="unknown source of paths 'a0.h1<q>'; did you mean 'a0.h1'.*writers"):
        strongest_paths(circuit, sources="a0.h1<q>")
    with pytest.raises(UnknownNameError, match="unknown target of paths 'input'"):
        count_paths(circuit, targets="input")
    with pytest.raises(UnknownNameError, match="unknown node 'a0.h7'"):
        count_paths(circuit, through="a0.h7")
    with pytest.raises(UnknownNameError, match="no edge m1->m0"):
        count_paths(circuit, through="m1->m0")
    with pytest.raises(ConfigurationError, match="m0 is both a source and a target"):
        count_paths(circuit, sources=["input", "m0"], targets=["m0", "logits"])
