"""Circuits with added vectors in tables, drawings and the explorer."""

from __future__ import annotations

import pytest

from analysis import find
from analysis.comparable import require_comparable
from analysis.drawing.dot import circuit_to_dot
from analysis.explorer.contents import page_contents
from analysis.sparsity import sparsity_table
from analysis.structure.paths import strongest_paths
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import GraphMismatchError
from circuitgraph.graph.universe import Universe
from pruning.evaluation.random_circuits import layer_pairs, random_circuit

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2, virtual=("v@1", "w@1"))
EDGES = {"input->a0.h0<v>": 1.0, "a0.h0->logits": 1.0, "v@1->a1.h1<v>": 3.0, "a1.h1->logits": 2.0, "w@1->logits": 0.5}


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return Circuit.from_edges(UNIVERSE, EDGES)


def test_an_edge_from_a_vector_does_not_dangle(circuit: Circuit) -> None:
    assert set(circuit) == set(EDGES)
    without = Circuit.from_edges(Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2), ["a1.h1->logits"])
    assert len(without) == 0


def test_tables_count_them(circuit: Circuit) -> None:
    table = sparsity_table(circuit)
    rows = table[(table["part"] == "edges") & (table["kind"] == "vector")]
    assert rows["kept"].tolist() == [2] and rows["total"].tolist() == [2 * (6 + 1 + 1)]
    paths = strongest_paths(circuit, k=1)
    assert paths["path"].tolist() == ["v@1 -> a1.h1<v> -> logits"]
    assert list(find(circuit, "v@1 -> **").edges) == [("v@1", "a1.h1<v>"), ("a1.h1", "logits")]


def test_drawings_have_them(circuit: Circuit) -> None:
    dot = circuit_to_dot(circuit)
    assert '"v@1" -> "a1.h1"' in dot and "a vector that is added before layer 3" in dot
    page = page_contents(circuit)
    nodes = {node["id"]: node for node in page["nodes"]}
    assert (nodes["v@1"]["kind"], nodes["v@1"]["layer"]) == ("vector", 1)
    places = [(node["along"], node["across"]) for node in page["nodes"]]
    assert len(set(places)) == len(places)
    assert nodes["a0.h0"]["along"] < nodes["v@1"]["along"] < nodes["a1.h1"]["along"]


def test_random_circuits_keep_their_layers(circuit: Circuit) -> None:
    pairs = sorted(layer_pairs(UNIVERSE, circuit.edge_ids).tolist())
    for seed in range(20):
        found = random_circuit(circuit, seed=seed)
        assert sorted(layer_pairs(UNIVERSE, found.edge_ids).tolist()) == pairs
        assert sum(name.startswith(("v@1", "w@1")) for name in found) == 2


def test_circuits_with_other_vectors_are_not_compared(circuit: Circuit) -> None:
    one, other = (circuit.with_provenance({"vectors": {"v@1": digest}}) for digest in ("a", "b"))
    with pytest.raises(GraphMismatchError, match="vectors: .*'a'.* against"):
        require_comparable({"one": one, "other": other})
    plain = Circuit.from_edges(Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2), ["input->logits"])
    with pytest.raises(GraphMismatchError, match=r"virtual: .*Other vectors are added to the model"):
        require_comparable({"one": circuit, "other": plain})
