"""Weighted recall by hand, and as a matrix."""

from __future__ import annotations

import math

import pytest

from analysis.overlap.matrices import overlap_matrix
from analysis.overlap.weighted import weighted_recall
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
A = Circuit.from_edges(UNIVERSE, {"input->logits": 6, "input->m0": -1, "m0->logits": 1})
B = Circuit.from_edges(UNIVERSE, {"input->logits": -2, "input->a0.h0<v>": 1, "a0.h0->logits": 1})
EMPTY = Circuit.from_edges(UNIVERSE, [])


def test_edges_count_for_what_they_are_in_the_first_circuit():
    assert weighted_recall(A, B) == 6 / 8 and weighted_recall(B, A) == 2 / 4
    assert weighted_recall(A, B, signed=True) == 6 / 6
    assert math.isnan(weighted_recall(B, A, signed=True))  # -2 + 1 + 1
    assert weighted_recall(EMPTY, A) == 1.0 and weighted_recall(A, EMPTY) == 0.0


def test_gates_count_for_the_strength_of_their_logits():
    gates = {"input->logits": 0.0, "input->m0": -50.0, "m0->logits": 0.0}
    trained = Circuit.from_edges(UNIVERSE, gates, provenance={"score_meaning": "log-alpha"})
    assert weighted_recall(trained, B) == pytest.approx(0.5)  # log 2 of 2 log 2, and next to nothing


def test_as_a_matrix():
    found = overlap_matrix({"a": A, "b": B}, measure="weighted_recall")
    assert found.loc["a"].tolist() == [1.0, 0.75] and found.loc["b"].tolist() == [0.5, 1.0]
    with pytest.raises(ConfigurationError, match="weighted_recall is of scores, which edges have alone"):
        overlap_matrix([A, B], measure="weighted_recall", level="nodes")
    other = Circuit.from_edges(Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2), ["input->logits"])
    with pytest.raises(GraphMismatchError):
        overlap_matrix([A, other], measure="signed_recall")
