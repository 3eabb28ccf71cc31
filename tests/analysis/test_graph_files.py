"""Graph files, read back by networkx and as plain XML and JSON; hostile names in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest

from analysis.graph_files import write_graph
from analysis.structure.coarse import coarse_graph
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError, ConfigurationError, OutputError, UnknownNameError
from circuitgraph.graph.universe import Universe
from tests.analysis.small_circuits import UNIVERSES, hand_circuit, large_circuit, random_circuit

HOSTILE = "\"><script>alert('1')</script>&amp;]]>\n<!-- \\ %s {x} é 語"
FORBIDDEN = "a\x00b\x1f\ud800\uffff"
SUFFIXES = (".graphml", ".gexf", ".json", ".cyjs")


def read(path: Path) -> nx.DiGraph:
    if path.suffix == ".graphml":
        return nx.read_graphml(path)
    if path.suffix == ".gexf":
        return nx.read_gexf(path)
    values = json.loads(path.read_text())
    return nx.node_link_graph(values) if path.suffix == ".json" else nx.cytoscape_graph(values)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", UNIVERSES)
def test_networkx_reads_back_what_was_written(name: str, suffix: str, tmp_path: Path) -> None:
    circuit = random_circuit(name, 1, scores="normal") if name != "hand" else hand_circuit()
    path = write_graph(circuit, tmp_path / f"c{suffix}")
    graph, expected = read(path), circuit.graph
    assert graph.is_directed()
    assert not graph.is_multigraph()
    assert set(graph) == set(expected)
    assert set(graph.edges) == set(expected.edges)
    for node, values in expected.nodes.items():
        assert {key: graph.nodes[node][key] for key in values} == values
        assert graph.nodes[node]["label"] == node
    for edge, values in expected.edges.items():
        assert {key: graph.edges[edge][key] for key in values} == values
        if "score" in values:
            assert graph.edges[edge]["weight"] == abs(values["score"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_structural_edges_can_be_left_out(suffix: str, tmp_path: Path) -> None:
    circuit = random_circuit("gqa", 2)
    graph = read(write_graph(circuit, tmp_path / f"c{suffix}", structural=False))
    assert set(graph.edges) == set(circuit.edges)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_score_of_zero_keeps_its_edge_in_gephi(suffix: str, tmp_path: Path) -> None:
    circuit = Circuit.from_edges(UNIVERSES["mha"], {"input->m0": 0.0, "m0->logits": -3.0})
    graph = read(write_graph(circuit, tmp_path / f"c{suffix}"))
    assert graph.edges["input", "m0"]["score"] == 0
    assert graph.edges["input", "m0"]["weight"] == 1e-9
    assert (graph.edges["m0", "logits"]["score"], graph.edges["m0", "logits"]["weight"]) == (-3, 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_circuits(suffix: str, tmp_path: Path) -> None:
    assert len(read(write_graph(Circuit.from_edges(UNIVERSES["mha"], []), tmp_path / f"e{suffix}"))) == 0


@pytest.mark.slow
def test_5000_edges(tmp_path: Path) -> None:
    circuit = large_circuit()
    assert len(read(write_graph(circuit, tmp_path / "c.gexf")).edges) == circuit.graph.number_of_edges() > 5000


@pytest.mark.parametrize("by", ["module", "layer", "kind"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_coarse_graphs(suffix: str, by: str, tmp_path: Path) -> None:
    expected = coarse_graph(random_circuit("gqa", 3), by)
    graph = read(write_graph(expected, tmp_path / f"c{suffix}"))
    assert {edge: values["n_edges"] for edge, values in graph.edges.items()} == {
        edge: values["n_edges"] for edge, values in expected.edges.items()
    }
    for edge, values in expected.edges.items():
        assert graph.edges[edge]["weight"] == max(values["score"], 1e-9)
    assert "weight" not in next(iter(expected.edges.values()))


# -------------------------------------------------------------------- what other programs look for


def test_graphml_declares_its_types(tmp_path: Path) -> None:
    path = write_graph(hand_circuit().with_provenance({"model": "toy", "task": "ioi"}), tmp_path / "c.graphml")
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{{{space['g']}}}graphml"
    keys = {(key.get("for"), key.get("attr.name")): key.get("attr.type") for key in root.findall("g:key", space)}
    assert keys["edge", "weight"] == keys["edge", "score"] == "double"
    assert keys["edge", "mask"] == keys["node", "layer"] == "long"
    assert keys["node", "label"] == keys["edge", "kind"] == keys["graph", "model"] == "string"
    assert root.find("g:graph", space).get("edgedefault") == "directed"
    told = nx.read_graphml(path).graph
    assert (told["name"], told["ablation"]) == ("toy, ioi", "counterfactual")
    assert Universe.from_dict(json.loads(told["universe"])) == hand_circuit().universe
    assert told["digest"] == hand_circuit().digest


def test_gexf_has_weights_where_gephi_reads_them(tmp_path: Path) -> None:
    path = write_graph(hand_circuit(), tmp_path / "c.gexf")
    root = ElementTree.parse(path).getroot()
    space = {"g": root.tag[1:].partition("}")[0]}
    assert root.find("g:graph", space).get("defaultedgetype") == "directed"
    edges = {(edge.get("source"), edge.get("target")): edge for edge in root.iterfind(".//g:edge", space)}
    assert float(edges["m0", "a1.kv0<k>"].get("weight")) == 5
    assert edges["a1.kv0<k>", "a1.h0"].get("weight") is None
    labels = {node.get("id"): node.get("label") for node in root.iterfind(".//g:node", space)}
    assert labels == {name: name for name in hand_circuit().nodes}


def test_cytoscape_gets_tables_of_plain_values(tmp_path: Path) -> None:
    values = json.loads(write_graph(hand_circuit(), tmp_path / "c.cyjs").read_text())
    assert isinstance(values["data"], dict)
    ids = {node["data"]["id"] for node in values["elements"]["nodes"]}
    assert ids == set(hand_circuit().nodes)
    for edge in values["elements"]["edges"]:
        assert {edge["data"]["source"], edge["data"]["target"]} <= ids
    everything = [values["data"], *(item["data"] for part in values["elements"].values() for item in part)]
    assert {type(value) for data in everything for value in data.values()} <= {str, int, float}


def test_node_link_files_are_no_circuit_files(tmp_path: Path) -> None:
    path = write_graph(hand_circuit(), tmp_path / "c.json")
    with pytest.raises(
        CircuitFormatError,
        match="a node-link graph, .* and no circuit file; load the circuit.json",
    ):
        Circuit.load(path)


# -------------------------------------------------------------------- hostile names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hostile_text_stays_text(suffix: str, tmp_path: Path) -> None:
    universe = Universe(family=HOSTILE, n_layers=1, n_heads=1, n_kv_heads=1)
    circuit = Circuit.from_edges(universe, ["input->logits"], provenance={"model": HOSTILE, "task": HOSTILE})
    path = write_graph(circuit, tmp_path / f"c{suffix}")
    text = path.read_text()
    if suffix in (".graphml", ".gexf"):
        assert "<script" not in text
        assert {element.tag.partition("}")[2] for element in ElementTree.parse(path).iter()} <= {
            *("graphml", "key", "graph", "node", "edge", "data"),
            *("gexf", "meta", "creator", "attributes", "attribute", "nodes", "edges", "attvalues", "attvalue"),
        }
    graph = read(path)
    assert set(graph) == {"input", "logits"}
    if suffix != ".gexf":
        assert graph.graph["model"] == HOSTILE
    assert graph.graph.get("name", f"{HOSTILE}, {HOSTILE}").split() == f"{HOSTILE}, {HOSTILE}".split()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hostile_nodes_and_attributes(suffix: str, tmp_path: Path) -> None:
    graph = nx.DiGraph(name=HOSTILE)
    graph.add_node(HOSTILE, kind=HOSTILE, **{HOSTILE: 1, "flag": True, "nothing": None, "many": [1, 2]})
    graph.add_edge(HOSTILE, "b", score=np.float32(0.5), **{HOSTILE: HOSTILE})
    back = read(write_graph(graph, tmp_path / f"c{suffix}"))
    assert set(back) == {HOSTILE, "b"}
    values = back.nodes[HOSTILE]
    assert (values["kind"], values[HOSTILE], values["flag"], values["many"]) == (HOSTILE, 1, True, "[1, 2]")
    assert "nothing" not in values
    assert back.edges[HOSTILE, "b"][HOSTILE] == HOSTILE
    assert back.edges[HOSTILE, "b"]["weight"] == 0.5
    assert set(graph.nodes["b"]) == set()


@pytest.mark.parametrize("suffix", [".graphml", ".gexf"])
def test_what_xml_cannot_hold_is_replaced(suffix: str, tmp_path: Path) -> None:
    graph = nx.DiGraph([(FORBIDDEN, "b")])
    graph.nodes["b"]["note"] = FORBIDDEN
    back = read(write_graph(graph, tmp_path / f"c{suffix}"))
    replaced = "a\ufffdb\ufffd\ufffd\ufffd"
    assert set(back) == {replaced, "b"}
    assert back.nodes["b"]["note"] == replaced
    graph.add_node("a\x01b\x1f\ud800\uffff")
    with pytest.raises(ConfigurationError, match="have the same name in XML"):
        write_graph(graph, tmp_path / f"c{suffix}")
    assert set(read(tmp_path / f"c{suffix}")) == {replaced, "b"}


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown graph format '.graphlm'; did you mean '.graphml'"):
        write_graph(hand_circuit(), tmp_path / "c.graphlm")
    with pytest.raises(OutputError, match="cannot write"):
        write_graph(hand_circuit(), tmp_path / "missing" / "c.gexf")
    graph = nx.DiGraph()
    graph.add_edge("a", "b", score=float("nan"))
    with pytest.raises(ConfigurationError, match="score of edge a->b is nan"):
        write_graph(graph, tmp_path / "c.json")
    with pytest.raises(ConfigurationError, match="node names must be text; got 1"):
        write_graph(nx.DiGraph([(1, 2)]), tmp_path / "c.json")
    with pytest.raises(ConfigurationError, match="got a multigraph"):
        write_graph(nx.MultiDiGraph(), tmp_path / "c.json")
