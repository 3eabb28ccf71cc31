"""Precision, recall and AUROC against a known circuit: counted by hand, and pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.rankings.truth import auroc, recovery_table
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
TRUTH = Circuit.from_edges(UNIVERSE, ["input->m0", "m0->m1", "m1->logits"])


def scored(values) -> EdgeScores:
    return EdgeScores.of(UNIVERSE, np.asarray(values), method="mine", direction="noising", estimates="a rank")


def test_edges_and_nodes_are_counted_apart() -> None:
    found = Circuit.from_edges(UNIVERSE, ["input->m0", "m0->m1", "m1->logits", "input->m1", "m0->logits"])
    table = recovery_table({"found": found}, TRUTH).set_index("of")
    edges, nodes = table.loc["edges"], table.loc["nodes"]
    assert (edges["n"], edges["n_truth"], edges["n_both"]) == (5, 3, 3)
    assert (edges["precision"], edges["recall"], edges["f1"]) == pytest.approx((3 / 5, 1.0, 0.75))
    assert not edges["exact"] and nodes["exact"] and nodes["n"] == 3


def test_an_empty_circuit_and_the_known_one_itself() -> None:
    table = recovery_table({"none": Circuit.from_edges(UNIVERSE, []), "all": TRUTH}, TRUTH)
    edges = table[table["of"] == "edges"].set_index("name")
    assert (edges.loc["none", "precision"], edges.loc["none", "recall"], edges.loc["none", "f1"]) == (1.0, 0.0, 0.0)
    assert edges.loc["all", "exact"] and edges.loc["all", "f1"] == 1.0
    with pytest.raises(ConfigurationError, match="nothing to recover"):
        recovery_table({"all": TRUTH}, Circuit.from_edges(UNIVERSE, []))


@given(
    st.lists(st.integers(-3, 3), min_size=UNIVERSE.n_edges, max_size=UNIVERSE.n_edges),
    st.sampled_from(["signed", "size"]),
)
def test_auroc_is_the_share_of_pairs_in_order(values, by) -> None:
    worth = [value if by == "signed" else abs(value) for value in values]
    real = TRUTH.mask
    pairs = [
        1.0 if worth[a] > worth[b] else 0.5 if worth[a] == worth[b] else 0.0
        for a in np.flatnonzero(real)
        for b in np.flatnonzero(~real)
    ]
    assert auroc(scored(np.array(values, dtype=float)), TRUTH, by=by) == pytest.approx(np.mean(pairs))


def test_a_node_has_the_best_of_its_edges() -> None:
    values = np.zeros(UNIVERSE.n_edges)
    for edge in ("input->logits", "m0->logits", "m1->logits"):
        values[UNIVERSE.edge_index(*edge.split("->"))] = 1.0
    assert auroc(scored(values), TRUTH, nodes=True) == 1.0
    values[UNIVERSE.edge_index("a0.h0", "logits")] = 2.0  # one of two wrong writers above all three right ones
    assert auroc(scored(values), TRUTH, nodes=True) == pytest.approx(0.5)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        auroc(scored(np.zeros(UNIVERSE.n_edges)), TRUTH, by="rank")
    with pytest.raises(ConfigurationError, match="nothing in it"):
        auroc(scored(np.zeros(UNIVERSE.n_edges)), Circuit.from_edges(UNIVERSE, []))
    other = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    with pytest.raises(GraphMismatchError):
        auroc(scored(np.zeros(UNIVERSE.n_edges)), Circuit.from_edges(other, ["input->logits"]))
