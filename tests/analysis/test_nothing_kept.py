"""Circuits without edges, and of everything there is, in every public function: defined values or a clear error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.overlap.levels import LEVELS
from analysis.overlap.matrices import cluster
from analysis.overlap.tables import applicable_nulls
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError
from tests.analysis.small_circuits import UNIVERSES

UNIVERSE = UNIVERSES["mha"]
EMPTY = Circuit.from_edges(UNIVERSE, [])
WHOLE = Circuit.from_edges(UNIVERSE, np.ones(UNIVERSE.n_edges, dtype=bool))
SOME = Circuit.from_edges(UNIVERSE, {"input->a0.h1<v>": 3.0, "a0.h1->m1": 2.0, "m1->logits": 1.0})
PAIRS = {
    "both empty": {"a": EMPTY, "b": EMPTY}, "one empty": {"a": SOME, "b": EMPTY},
    "empty and whole": {"a": EMPTY, "b": WHOLE}, "both whole": {"a": WHOLE, "b": WHOLE},
}  # fmt: skip

# Public functions of one circuit that have something to say about any.
OF_ONE: dict[str, Callable[[Circuit], Any]] = {
    name: getattr(analysis, name)
    for name in (
        "betweenness", "block_density", "circuit_to_dot", "coarse_graph", "complement", "composition",
        "composition_counts", "count_paths", "hubs", "inclusion_frequency", "minimum_edge_cut", "path_counts",
        "reachability", "score_concentration", "sparsity_table", "strongest_paths",
    )
}  # fmt: skip
OF_ONE |= {
    "motifs": lambda circuit: analysis.motifs(circuit, n_samples=3),
    "find": lambda circuit: analysis.find(circuit, "m0, input -> **").table,
    "found": lambda circuit: analysis.find(circuit, "m* -> **").circuit,
    "coarsen": lambda circuit: analysis.coarsen(circuit, UNIVERSES["mha"]),
    "coarse_graph by layer": lambda circuit: analysis.coarse_graph(circuit, "layer"),
    "minimum_edge_cut by score": lambda circuit: analysis.minimum_edge_cut(circuit, by="score").table,
}
OF_TWO: dict[str, Callable[[Mapping[str, Circuit]], Any]] = {
    "overlap_table": analysis.overlap_table,
    "overlap_matrix": analysis.overlap_matrix,
    "containment": lambda pair: analysis.overlap_matrix(pair, measure="containment"),
    "cluster": lambda pair: cluster(analysis.overlap_matrix(pair)).matrix,
    "stability_table": analysis.stability_table,
    "inclusion_frequency": analysis.inclusion_frequency,
    "consensus": analysis.consensus,
    "union": lambda pair: analysis.union(*pair.values()),
    "intersection": lambda pair: analysis.intersection(*pair.values()),
    "difference": lambda pair: analysis.difference(*pair.values()),
    "symmetric_difference": lambda pair: analysis.symmetric_difference(*pair.values()),
    "compare_checkpoints": lambda pair: analysis.compare_checkpoints(*pair.values()).edges,
    "counts": lambda pair: analysis.compare_checkpoints(*pair.values()).counts("nodes"),
}


def require_finite(found: Any) -> None:
    """No NaN and no infinity; what is not defined has to be missing, which says so."""
    if isinstance(found, pd.DataFrame):
        for name in found:
            for value in found[name].tolist():
                assert not isinstance(value, float) or math.isfinite(value), f"{name}: {value}"
    elif isinstance(found, nx.DiGraph):
        for *_, values in (*found.nodes(data=True), *found.edges(data=True)):
            assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
    elif isinstance(found, Circuit):
        assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("name", OF_ONE)
@pytest.mark.parametrize("circuit", [EMPTY, SOME], ids=["empty", "some"])
def test_one_circuit(name: str, circuit: Circuit) -> None:
    require_finite(OF_ONE[name](circuit))


@pytest.mark.parametrize("name", OF_TWO)
@pytest.mark.parametrize("pair", PAIRS)
def test_two_circuits(name: str, pair: str) -> None:
    require_finite(OF_TWO[name](PAIRS[pair]))


@pytest.mark.parametrize("pair", PAIRS)
def test_null_models_where_nothing_can_vary(pair: str) -> None:
    for level in LEVELS:
        for alternative in ("greater", "less", "two-sided"):
            table = analysis.overlap_tests(
                PAIRS[pair], level=level, nulls=applicable_nulls(level), alternative=alternative, n_samples=3
            )
            require_finite(table)
            # Only one overlap is possible, so it is the expected one and surprises nobody.
            assert table["p"].tolist() == [1.0] * len(table)
            assert table["ratio"].tolist() == [1.0] * len(table)
            require_finite(analysis.adjust_p_values(table))


def test_values_that_are_a_matter_of_definition() -> None:
    pairs = {name: analysis.overlap_table(pair).set_index("level").loc["edges"] for name, pair in PAIRS.items()}
    both, one = pairs["both empty"], pairs["one empty"]
    assert [both[name] for name in ("iou", "overlap_coefficient", "a_in_b", "b_in_a")] == [1.0] * 4
    assert [one[name] for name in ("iou", "overlap_coefficient", "a_in_b", "b_in_a")] == [0.0, 1.0, 0.0, 1.0]
    assert both["spearman"] is pd.NA
    assert both["rank_note"] == "fewer than two shared edges"
    assert analysis.score_concentration(EMPTY)["share"].isna().tolist() == [True] * 4
    assert analysis.count_paths(EMPTY) == 0
    stability = analysis.stability_table(PAIRS["both empty"]).set_index("measure")
    assert stability.loc["chance_corrected", "value"] is pd.NA
    assert "not defined" in str(stability.loc["chance_corrected", "note"])
    # Four empty circuits agree on nothing, which is no agreement of 1 with an interval.
    stability = analysis.stability_table([EMPTY] * 4).set_index("measure")
    for measure in ("mean_pairwise_iou", "consensus_iou_without_one", "consensus_iou_without_one_worst"):
        assert stability.loc[measure, ["value", "low", "high"]].isna().all()
        assert "not defined" in str(stability.loc[measure, "note"])
    # By hand: of six pairs one is of two empty circuits, one has IoU 1, four have 0.
    stability = analysis.stability_table([EMPTY, EMPTY, SOME, SOME]).set_index("measure")
    assert stability.loc["mean_pairwise_iou", "value"] == pytest.approx(1 / 5)
    assert [both["note"], one["note"], pairs["both whole"]["note"]] == ["both are empty", "one is empty", ""]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.communities(EMPTY), "the circuit has no edges"),
        (lambda: analysis.minimum_node_cut(WHOLE), "no set of heads and MLPs cuts the path input -> logits"),
        (lambda: analysis.sparsity_table([]), "expected at least 1 circuit; got 0"),
        (lambda: analysis.union(), "expected at least 1 circuit; got 0"),
        (lambda: analysis.overlap_table([EMPTY]), "expected at least 2 circuits; got 1"),
        (lambda: analysis.overlap_table([EMPTY, EMPTY], levels=[]), "expected at least one level of edges, nodes"),
        (lambda: analysis.overlap_tests([EMPTY, EMPTY], nulls=[]), "expected at least one null of hypergeometric"),
    ],
)
def test_what_cannot_be_defined_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call()


@pytest.mark.parametrize("suffix", ["graphml", "gexf", "json", "cyjs"])
def test_files_of_an_empty_circuit(tmp_path: Path, suffix: str) -> None:
    assert analysis.write_graph(EMPTY, tmp_path / f"empty.{suffix}").stat().st_size > 50
