"""Tables, overlap and drawings of circuits with spans: against networkx, counting by name, and by hand."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from analysis.comparable import require_comparable
from analysis.drawing.dot import circuit_to_dot
from analysis.drawing.membership import draw_membership
from analysis.explorer import page_contents
from analysis.overlap.degree_preserving import EdgeSet, trade
from analysis.overlap.levels import items, n_items, stratum_counts
from analysis.report import write_report
from analysis.sparsity import block_density, depth, sparsity_table
from analysis.structure.coarse import coarse_graph
from analysis.structure.composition import composition
from analysis.structure.cuts import minimum_edge_cut
from analysis.structure.hubs import hubs
from analysis.structure.paths import count_paths, path_text, strongest_paths
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.connected import connected_edges
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.granularity import common_refinement
from circuitgraph.graph.node_names import node_kind, node_layer, node_span
from circuitgraph.graph.spans import with_spans
from circuitgraph.graph.universe import Universe

PLAIN = Universe(family="x", n_layers=3, n_heads=4, n_kv_heads=2)
UNIVERSE = with_spans(PLAIN, ("start", "name", "end"), asked=("name", "end"))


def some_circuit(seed: int, share: float = 0.35) -> Circuit:
    kept = np.random.default_rng(seed).random(UNIVERSE.n_edges) < share
    return Circuit.from_edges(UNIVERSE, kept, ablation="counterfactual")


def layer(name: str) -> int:
    found = node_layer(name)
    return (PLAIN.n_layers if node_kind(name) == "logits" else -1) if found is None else found


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_depth(seed: int) -> None:
    circuit = some_circuit(seed)
    graph = nx.DiGraph()
    graph.add_edges_from(circuit.edges, weight=1)
    graph.add_edges_from([e for e in UNIVERSE.structural_edges() if e[0] in graph and e[1] in graph], weight=0)
    ends = [name for name in graph if node_kind(name) == "logits"]
    before = graph.subgraph(set(ends).union(*(nx.ancestors(graph, end) for end in ends)))
    assert depth(circuit) == nx.dag_longest_path_length(before)
    table = sparsity_table(circuit)
    by_span = table.query("by == 'span'")
    assert dict(zip(by_span["kind"], by_span["kept"], strict=True)) == Counter(node_span(v) for _, v in circuit.edges)
    assert by_span["total"].sum() == UNIVERSE.n_edges
    names = {name for edge in circuit.edges for name in edge}
    nodes = table.query("part == 'nodes' and by == 'all'")
    assert (int(nodes["kept"].iloc[0]), int(nodes["total"].iloc[0])) == (
        len(names), len({*UNIVERSE.writers, *UNIVERSE.readers})
    )  # fmt: skip
    assert len(items(circuit, "nodes")) == len(names) and n_items(UNIVERSE, "nodes") == int(nodes["total"].iloc[0])
    blocks = block_density(circuit)
    kept = Counter((layer(u), layer(v)) for u, v in circuit.edges)
    every = Counter(tuple(layer(end) for end in UNIVERSE.edge_name(e).split("->")) for e in range(UNIVERSE.n_edges))
    for row in blocks.itertuples():
        assert row.kept == kept[row.writer_layer, row.reader_layer]
        assert row.total == every[row.writer_layer, row.reader_layer]


def test_null_models_keep_to_spans() -> None:
    one, other = some_circuit(0), some_circuit(1)
    sizes, of_one, of_other = stratum_counts(one, other, "edges")
    assert (sizes.sum(), of_one.sum(), of_other.sum()) == (UNIVERSE.n_edges, len(one), len(other))
    assert (of_one <= sizes).all() and (of_other <= sizes).all()
    sizes, of_one, _ = stratum_counts(one, other, "heads")
    assert sizes.sum() == 3 * 3 * 4 and of_one.sum() == len({u for u, _ in one.edges if node_kind(u) == "head"})
    writers = Counter(u for u, _ in one.edges)
    readers = Counter(v for _, v in one.edges)
    for seed in range(3):
        edges = trade(EdgeSet.of(UNIVERSE, one.edge_ids), 5, np.random.default_rng(seed)).edge_ids
        ends = [UNIVERSE.edge_name(int(edge)).split("->") for edge in edges]
        assert Counter(u for u, _ in ends) == writers and Counter(v for _, v in ends) == readers
        assert set(edges.tolist()) != set(one.edge_ids.tolist())


def test_drawn_edges_end_at_the_heads_that_read_a_span() -> None:
    edges = [
        "input@start->a0.kv1<k>@start", "input@start->a0.h2<q>@start", "a0.h2@start->m0@start",
        "m0@start->a1.kv0<v>@start", "a0.h3@end->logits@end", "a1.h0@end->logits@end", "a1.h1@name->logits@name",
    ]  # fmt: skip
    dot = circuit_to_dot(Circuit.from_edges(UNIVERSE, edges, ablation="zero"))
    lines = [line for line in dot.splitlines() if "->" in line and "invis" not in line and "digraph" not in line]
    drawn = {tuple(part.strip().split('"')[1] for part in line.split("->")[:2]) for line in lines}
    assert drawn == {
        # Two heads read this key, one at its own span and one at the end.
        ("input@start", "a0.kv1@start"), ("a0.kv1@start", "a0.h2@start"), ("a0.kv1@start", "a0.h3@end"),
        ("input@start", "a0.h2@start"), ("a0.h2@start", "m0@start"),
        ("m0@start", "a1.kv0@start"), ("a1.kv0@start", "a1.h0@end"), ("a1.kv0@start", "a1.h1@name"),
        ("a0.h3@end", "logits@end"), ("a1.h0@end", "logits@end"), ("a1.h1@name", "logits@name"),
    }  # fmt: skip
    told = re.sub(r"</FONT></TD></TR><TR><TD><FONT [^>]*>", " ", dot)  # the legend's lines as one
    assert "behind @: the span, in the order start, name, end; an edge is read at the span where it begins" in told


@pytest.mark.parametrize("span", ["x.kv", "a0.kv1", "m0", "v.h1"])
def test_spans_whose_names_look_like_nodes_are_drawn(span: str) -> None:
    universe = with_spans(PLAIN, (span, "end"), asked=("end",))
    edges = [f"input@{span}->a0.kv1<k>@{span}", f"input@{span}->m0@{span}", f"m0@{span}->a1.kv0<v>@{span}"]
    edges += [f"a0.h{head}@end->logits@end" for head in (2, 3)] + ["a1.h0@end->logits@end"]
    dot = circuit_to_dot(Circuit.from_edges(universe, edges, ablation="zero"))
    labels = {
        line.split('label="')[1].split('"')[0] for line in dot.splitlines() if "fillcolor" in line and "[label" in line
    }
    own = {f"{name}@{span}" for name in ("input", "m0", "kv1")}
    assert labels == own | {"a0.h2@end", "a0.h3@end", "a1.h0@end", "logits@end"}
    assert "several heads read, there or at spans behind" in dot.replace(
        '</FONT></TD></TR><TR><TD><FONT COLOR="#595959">', " "
    )


@pytest.mark.parametrize("side_by_side", [False, True])
def test_circuits_drawn_together_have_the_nodes_of_each_span_and_no_others(side_by_side: bool) -> None:
    edges = [
        "input@start->a0.h2<q>@start",
        "input@start->a0.kv1<k>@start",
        "a0.h2@start->m0@start",
        "m0@start->m1@start",
    ]
    one = Circuit.from_edges(UNIVERSE, edges + ["m1@start->a2.kv0<v>@start", "a2.h0@end->logits@end"], ablation="zero")
    other = Circuit.from_edges(UNIVERSE, edges + ["m1@start->a2.h1<q>@start", "a2.h1@start->m2@start"], ablation="zero")
    dot = draw_membership({"one": one, "other": other}, side_by_side=side_by_side).dot
    declared = {
        line.split('"')[1].rpartition("/")[2] for line in dot.splitlines() if "fillcolor" in line and "[label" in line
    }
    assert len(other) == 0 and all("@" in name for name in declared)  # m2@start is read nowhere
    heads = {"a0.h2@start", "a2.h0@end", "m0@start", "m1@start", "input@start", "logits@end"}
    assert declared - heads <= {"a0.kv1@start"}


@pytest.mark.parametrize("seed", range(3))
def test_paths_end_at_the_logits_of_all_spans(seed: int) -> None:
    """Counted one by one with networkx."""
    circuit = some_circuit(seed, share=0.15)
    graph = circuit.graph
    ends = [name for name in graph if node_kind(name) == "logits"]
    starts = [name for name in graph if node_kind(name) == "embedding"]
    expected = [path for start in starts for path in nx.all_simple_paths(graph, start, ends)]
    table = strongest_paths(circuit, 10**6)
    assert sorted(table["nodes"]) == sorted(map(tuple, expected)) and len(expected) > 5
    assert count_paths(circuit) == len(expected)
    cut = minimum_edge_cut(circuit).table["edge"]
    graph.remove_edges_from(edge.split("->") for edge in cut)
    assert not any(nx.has_path(graph, start, end) for start in starts for end in ends)


def test_a_path_names_a_head_that_reads_another_span() -> None:
    nodes = ["input@a", "a0.h1<v>@a", "a0.h1@a", "a1.h0<k>@a", "a1.h0@b", "logits@b"]
    assert path_text(nodes) == "input@a -> a0.h1<v>@a -> a1.h0<k>@a -> a1.h0@b -> logits@b"


def test_a_report_counts_heads_and_mlps_at_every_span(tmp_path: Path) -> None:
    circuit = some_circuit(0)
    text = write_report(tmp_path / "report.md", circuit, {"splits": {}}).read_text()
    heads = {name for name in circuit.nodes if node_kind(name) == "head"}
    assert f"| heads | {len(heads)} | {3 * 3 * 4} |" in text and "| MLPs | " in text
    assert f"| {3 * 3} |" in text.split("| MLPs |")[1].partition("\n")[0]


def test_what_does_not_know_spans_says_so() -> None:
    circuit = some_circuit(0)
    with pytest.raises(ConfigurationError, match=r"the explorer does not know spans .* \(start, name, end\)"):
        page_contents({"a": circuit})
    scores = EdgeScores.of(UNIVERSE, np.ones(UNIVERSE.n_edges), method="m", direction="noising", estimates="a rank")
    with pytest.raises(ConfigurationError, match="the rule 'connected' does not know spans"):
        connected_edges(scores, 3)
    for structure in (hubs, coarse_graph, composition):
        with pytest.raises(ConfigurationError, match=r"what joins modules \(hubs, .*\) does not know spans"):
            structure(circuit)
    with pytest.raises(ConfigurationError, match="from one granularity to another does not know spans"):
        common_refinement(UNIVERSE, UNIVERSE)


def test_paths_end_at_the_logits_of_every_asked_span() -> None:
    edges = ["input@start->m0@start", "m0@start->a1.kv0<v>@start", "a1.h1@name->logits@name", "a1.h0@end->logits@end"]
    circuit = Circuit.from_edges(UNIVERSE, edges, ablation="counterfactual")
    # By hand: one way in, and the value of group 0 is read by a head at each of the two asked spans.
    assert count_paths(circuit) == 2
    ends = {nodes[-1] for nodes in strongest_paths(circuit)["nodes"]}
    assert ends == {"logits@name", "logits@end"}


def test_circuits_with_and_without_spans_are_not_compared() -> None:
    plain = Circuit.from_edges(PLAIN, ["input->logits"])
    for one, other in ((plain, some_circuit(0)), (some_circuit(0), plain)):
        with pytest.raises(GraphMismatchError, match=r"spans: .*; find both with the same --spans, or both without"):
            require_comparable({"a": one, "b": other})
    asked = Circuit.from_edges(with_spans(PLAIN, UNIVERSE.spans, asked=("end",)), ["input@end->logits@end"])
    with pytest.raises(GraphMismatchError, match=r"asked_spans: .*other spans of tokens"):
        require_comparable({"a": some_circuit(0), "b": asked})
