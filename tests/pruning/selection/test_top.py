"""The edges with the largest scores as a circuit, and trained gates as scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from pruning.methods.edge_pruning.gates import Gates
from pruning.methods.edge_pruning.scores import scores_of_gates
from pruning.selection.best import discretize
from pruning.selection.top import top_edges

TOY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
# q, k, v of the head; input->m0, head->m0; input, head, m0 -> logits
VALUES = np.array([0.1, -0.2, 3.0, 0.4, -4.0, -0.6, 5.0, 0.7])


def scores(**changes) -> EdgeScores:
    about = {"method": "mine", "direction": "noising", "estimates": "a rank", "provenance": {"model": "toy"}}
    return EdgeScores.of(TOY, VALUES, **{**about, **changes})


def test_by_size_and_by_sign() -> None:
    by_size, signed = top_edges(scores(), 3), top_edges(scores(), 4, by="signed")
    assert list(by_size) == ["input->a0.h0<v>", "a0.h0->logits"]  # a0.h0->m0 dangles: nothing reads m0
    assert by_size.sparsity["n_raw"] == 3 and by_size.scores.tolist() == [3.0, 5.0]
    assert list(signed) == ["input->a0.h0<v>", "input->m0", "a0.h0->logits", "m0->logits"]


def test_the_provenance_says_all() -> None:
    found = top_edges(scores(ablation="zero"), 4).provenance
    digest = scores(ablation="zero").digest
    assert found["selection"] == {"rule": "top", "n": 4, "by": "strength", "scores": digest, "n_kept": 4}
    assert (found["method"], found["direction"], found["score_meaning"]) == ("mine", "noising", "a rank")
    assert found["model"] == "toy" and found["ablation"] == "zero"


def test_a_circuit_survives_its_file(tmp_path) -> None:
    circuit = top_edges(scores(), 5)
    again = Circuit.load(circuit.save(tmp_path / "circuit.json"))
    assert again == circuit and again.score_meaning == "a rank" and again.n_raw == 5


@pytest.mark.parametrize("n", [-1, 9])
def test_how_many(n: int) -> None:
    with pytest.raises(ConfigurationError, match=f"0 to 8, the number of edges; got {n}"):
        top_edges(scores(), n)
    assert len(top_edges(scores(), 0)) == 0 and len(top_edges(scores(), 8)) == 8


def test_trained_gates_are_scores_too() -> None:
    """A removed edge comes last and a frozen one first, and the circuit is the one that training keeps."""
    edits = {"removed": 1, "removed_edges": ["input->m0"], "frozen": 1, "frozen_edges": ["input->logits"]}
    gate_map = GateMap.from_edits(TOY, edits)
    gates = Gates(gate_map, init_mean=0.0, init_std=2.0, generator=torch.Generator().manual_seed(0))
    found = scores_of_gates(gates, ablation="zero", provenance={"recipe": "quick"})
    assert found["input->m0"] == found.values.min() and found["input->logits"] == found.values.max()
    assert found.estimates == "log-alpha" and np.isfinite(found.values).all()
    plain = gates.scores().double().numpy()
    np.testing.assert_array_equal(found.values[np.isfinite(plain)], plain[np.isfinite(plain)])
    kept, _ = discretize(gates, keep=5)
    # The frozen edge ties with the best trained one, so that both ways keep it.
    assert sorted(found.order()[:5].tolist()) == sorted(kept.tolist())
    assert math.isclose(top_edges(found, 5).strengths.max(), math.log1p(math.exp(found.values.max())))
