"""Counts, densities and depth against loops over names and networkx; scores against sums by hand."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from analysis.sparsity import block_density, depth, score_concentration, sparsity_table
from analysis.strata import strata
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.graph.universes import STEADY, Kept, kept_edges

GPT2_SMALL = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)


def circuit_of(case: Kept, ablation: str = "counterfactual") -> Circuit:
    return Circuit.from_edges(case.universe, case.mask, ablation=ablation)


def slow_counts(graph: nx.DiGraph) -> dict[tuple[str, str, object], int]:
    """What a graph has, one node and one edge at a time: by part, by what, and which."""
    counts: Counter[tuple[str, str, object]] = Counter()
    for source, target, kind in graph.edges(data="kind"):
        if kind == "structural":
            continue
        ends = graph.nodes[source], graph.nodes[target]
        counts["edges", "all", None] += 1
        counts["edges", "writer_layer", ends[0]["layer"]] += 1
        counts["edges", "reader_layer", ends[1]["layer"]] += 1
        counts["edges", "writer_kind", ends[0]["kind"]] += 1
        counts["edges", "reader_kind", kind] += 1
    for node, values in graph.nodes(data=True):
        counts["nodes", "all", None] += 1
        counts["nodes", "layer", values["layer"]] += 1
        counts["nodes", "kind", values["kind"]] += 1
        part = {"head": "heads", "mlp": "mlps"}.get(values["kind"])
        if part and (part == "heads" or graph.out_degree(node)):
            counts[part, "all", None] += 1
            counts[part, "layer", values["layer"]] += 1
    return counts


def longest_path(graph: nx.DiGraph) -> int:
    weighted = nx.DiGraph()
    weighted.add_nodes_from(graph)
    for u, v, kind in graph.edges(data="kind"):
        weighted.add_edge(u, v, weight=int(kind != "structural"))
    return int(nx.dag_longest_path_length(weighted)) if len(weighted) else 0


@settings(parent=STEADY, max_examples=40)
@given(case=kept_edges())
def test_counts_are_those_of_the_graph(case: Kept) -> None:
    for ablation in ("counterfactual", "zero"):
        circuit = circuit_of(case, ablation)
        table = sparsity_table({"it": circuit})
        kept, total = slow_counts(circuit.graph), slow_counts(build_graph(case.universe))
        counted = table[(table["stage"] == "effective") & (table["part"] != "depth")]
        found = {}
        for row in counted.to_dict("records"):
            (which,) = [row[name] for name in ("layer", "kind") if not pd.isna(row[name])] or [None]
            found[row["part"], row["by"], which] = row["kept"], row["total"]
        assert found == {key: (kept[key], total[key]) for key in total}


@settings(parent=STEADY, max_examples=40)
@given(case=kept_edges())
def test_depth_is_the_longest_path(case: Kept) -> None:
    for ablation in ("counterfactual", "zero"):
        circuit = circuit_of(case, ablation)
        assert depth(circuit) == longest_path(circuit.graph)
        row = sparsity_table(circuit).query("part == 'depth'")
        assert row["kept"].item() == depth(circuit)
        assert row["total"].item() == longest_path(build_graph(case.universe))


@settings(parent=STEADY, max_examples=40)
@given(case=kept_edges())
def test_blocks_are_those_of_the_graph(case: Kept) -> None:
    circuit, graph = circuit_of(case), build_graph(case.universe)
    kept, total = Counter(), Counter()
    for counts, of in ((kept, circuit.graph), (total, graph)):
        for u, v, kind in of.edges(data="kind"):
            if kind != "structural":
                counts[of.nodes[u]["layer"], of.nodes[v]["layer"], of.nodes[u]["kind"], kind] += 1
    table = block_density(circuit, kinds=True)
    by = ["writer_layer", "reader_layer", "writer_kind", "reader_kind"]
    found = {tuple(row[name] for name in by): (row["kept"], row["total"]) for row in table.to_dict("records")}
    assert found == {key: (kept[key], total[key]) for key in total}
    layers = block_density(circuit)
    assert layers.equals(
        table.groupby(["circuit", *by[:2]], as_index=False)[["kept", "total"]].sum().assign(density=layers["density"])
    )
    assert np.array_equal(layers["density"], layers["kept"] / layers["total"])


def test_gpt2_small_by_hand() -> None:
    circuit = Circuit.from_edges(GPT2_SMALL, ["input->a3.h7<v>", "a3.h7->m5", "m5->logits", "a1.h0->m5"])
    table = sparsity_table(circuit).set_index(["stage", "part", "by"])
    everything = table.xs("all", level="by")
    assert everything["kept"].to_dict() == {
        ("raw", "edges"): 4,
        ("effective", "edges"): 3,
        ("effective", "nodes"): 5,
        ("effective", "heads"): 1,
        ("effective", "mlps"): 1,
        ("effective", "depth"): 3,
    }
    assert everything["total"].to_dict() == {
        ("raw", "edges"): 32491,
        ("effective", "edges"): 32491,
        ("effective", "nodes"): 1 + 12 * (12 + 36 + 1) + 1,
        ("effective", "heads"): 144,
        ("effective", "mlps"): 12,
        ("effective", "depth"): 25,
    }
    assert everything.loc[("raw", "edges"), "sparsity"] == pytest.approx(1 - 4 / 32491)
    assert everything.loc[("effective", "edges"), "density"] == pytest.approx(3 / 32491)


def test_columns_and_dtypes() -> None:
    circuit = Circuit.from_edges(GPT2_SMALL, ["input->logits"])
    dtypes = sparsity_table([circuit, circuit]).dtypes.astype(str).to_dict()
    assert dtypes["layer"] == "Int64" and dtypes["kind"] == "string"
    assert dtypes["kept"] == dtypes["total"] == "int64" and dtypes["density"] == dtypes["sparsity"] == "float64"
    assert set(sparsity_table([circuit, circuit])["circuit"]) == {"circuit 1", "circuit 2"}


def test_circuits_of_different_universes_share_a_table() -> None:
    other = Universe(family="llama", n_layers=1, n_heads=1, n_kv_heads=1)
    named = {"small": Circuit.from_edges(other, ["input->logits"]), "large": Circuit.from_edges(GPT2_SMALL, [])}
    totals = sparsity_table(named).query("part == 'edges' and by == 'all' and stage == 'effective'")
    assert dict(zip(totals["circuit"], totals["total"], strict=True)) == {"small": 8, "large": 32491}
    blocks = block_density(named)
    assert blocks["circuit"].drop_duplicates().tolist() == ["small", "large"]
    assert blocks.groupby("circuit")["total"].sum().to_dict() == {"small": 8, "large": 32491}


def test_an_empty_circuit_is_zero_everywhere() -> None:
    empty = Circuit.from_edges(GPT2_SMALL, [])
    table = sparsity_table(empty)
    assert (table["kept"] == 0).all() and (table["density"] == 0).all() and (table["sparsity"] == 1).all()
    assert (block_density(empty)["kept"] == 0).all()
    shares = score_concentration(empty)
    assert shares["share"].isna().all() and (shares["total_score"] == 0).all() and (shares["n_edges"] == 0).all()


def test_scores_are_summed_from_the_strongest() -> None:
    scores = {"input->m0": -8.0, "m0->logits": 4.0, "input->logits": 3.0, "input->m1": 1.0, "m1->logits": 0.0}
    circuit = Circuit.from_edges(GPT2_SMALL, scores)
    table = score_concentration(circuit, top=[1, 2, 4, 5, 99])
    assert table["share"].tolist() == [8 / 16, 12 / 16, 1.0, 1.0, 1.0]
    assert table["total_score"].unique().tolist() == [16.0]
    zeros = score_concentration(Circuit.from_edges(GPT2_SMALL, {"input->logits": 0.0}), top=[1])
    assert zeros["share"].isna().all()


def test_bad_input() -> None:
    circuit = Circuit.from_edges(GPT2_SMALL, ["input->logits"])
    with pytest.raises(ConfigurationError, match="at least 1; got 0"):
        score_concentration(circuit, top=[10, 0])
    for function in (sparsity_table, block_density, score_concentration):
        with pytest.raises(ConfigurationError, match="expected at least 1 circuit; got 0"):
            function([])


def test_strata_have_the_sizes_of_enumeration() -> None:
    for universe in (GPT2_SMALL, Universe(family="llama", n_layers=3, n_heads=6, n_kv_heads=2, embeddings="split")):
        groups = strata(universe)
        assert np.array_equal(groups.sizes, groups.counts(universe, np.arange(universe.n_edges)))
