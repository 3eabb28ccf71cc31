"""Labels of edges from made-up effects: thresholds, tables, graphs, drawings, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.gates import logic_gates
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.strength import RISE_WHEN_TRIED
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=1, n_heads=3, n_kv_heads=3)


def scores(direction: str, values: dict[str, float], **about: str) -> EdgeScores:
    found = np.zeros(UNIVERSE.n_edges)
    for edge, value in values.items():
        found[UNIVERSE.edge_index(*edge.split("->"))] = value
    return EdgeScores.of(UNIVERSE, found, **{"method": "exact", "estimates": "a rise", **about}, direction=direction)


def circuit_of(*edges: str) -> Circuit:
    heads = [edge.split("->")[0] for edge in edges if edge.startswith("a0")]
    return Circuit.from_edges(UNIVERSE, [*edges, *(f"input->{head}<v>" for head in heads), "m0->logits"])


def test_labels_go_by_the_share_of_the_larger_effect() -> None:
    noising = {"a0.h0->m0": 1.0, "a0.h1->m0": -0.1, "a0.h2->m0": 0.5, "m0->logits": 1.0, "input->a0.h0<v>": 1e-9}
    denoising = {"a0.h0->m0": 0.2, "a0.h1->m0": 0.6, "a0.h2->m0": 0.101, "m0->logits": -1.0, "input->m0": 0.009}
    circuit = circuit_of("a0.h0->m0", "a0.h1->m0", "a0.h2->m0", "input->m0")
    gates = logic_gates(scores("noising", noising), scores("denoising", denoising), circuit, threshold=0.2)
    found = dict(zip(gates.table["edge"], gates.table["gate"], strict=True))
    # 0.2 of 1.0 is a fifth: none. 0.101 of 0.5 is more than a fifth: both. Signs say nothing.
    assert (found["a0.h0->m0"], found["a0.h1->m0"], found["a0.h2->m0"]) == ("AND", "OR", "ADDER")
    assert found["m0->logits"] == "ADDER"
    # The only edge into its reader is a gate of one, however small; one of 0.009 beside 1.0 is nothing.
    assert found["input->a0.h0<v>"] == "AND" and found["input->m0"] == "" and found["input->a0.h1<v>"] == ""
    assert logic_gates(scores("noising", noising), scores("denoising", denoising), circuit, threshold=0.1).of(
        "AND"
    ) == ("input->a0.h0<v>",)
    assert gates.of("OR") == ("a0.h1->m0",)
    into = gates.receivers[gates.receivers["reader"] == "m0"]
    assert into[["gate", "n", "senders"]].values.tolist() == [
        ["AND", 1, "a0.h0"], ["OR", 1, "a0.h1"], ["ADDER", 1, "a0.h2"],
    ]  # fmt: skip
    assert gates.graph.edges["a0.h1", "m0"]["gate"] == "OR"
    assert gates.graph.edges["a0.h1", "m0"]["denoising"] == 0.6
    assert dict(zip(gates.circuit, gates.circuit.scores, strict=True))["a0.h1->m0"] == pytest.approx(0.7)
    with pytest.raises(UnknownNameError, match="gate 'XOR'"):
        gates.of("XOR")


def test_one_edge_of_the_alternatives_is_kept() -> None:
    ors = {"a0.h0->m0": 0.3, "a0.h1->m0": 0.4, "input->a0.h0<v>": 0.3, "input->a0.h1<v>": 0.3}
    ands = {"a0.h2->m0": 0.5, "input->a0.h2<v>": 0.5}
    gates = logic_gates(scores("noising", {**ands, "m0->logits": 1.0}), scores("denoising", {**ors, "m0->logits": 1.0}))
    assert len(gates.circuit) == 7
    assert set(gates.smallest_faithful) == {*ands, "a0.h1->m0", "input->a0.h1<v>", "m0->logits"}
    assert gates.smallest_faithful.provenance["selection"]["rule"] == "smallest faithful"
    assert set(gates.smallest_complete) == {*ors, *ands, "m0->logits"}


def test_a_drawing_tells_gates_apart() -> None:
    ors = {"a0.h0->m0": 0.3, "a0.h1->m0": 0.4}
    circuit = circuit_of(*ors)
    gates = logic_gates(
        scores("noising", {"m0->logits": 1.0}), scores("denoising", {**ors, "m0->logits": 1.0}), circuit
    )
    dot = gates.draw().dot
    assert "OR (denoising only): 2 edges" in dot and "ADDER (both): 1 edge" in dot and "no gate: 2 edges" in dot
    assert "AND (noising only)" not in dot
    (line,) = [line for line in dot.splitlines() if line.strip().startswith('"a0.h0" -> "m0"')]
    assert 'color="#D55E00", style=dashed' in line and "OR (denoising only)" in line
    assert "the wider, the larger the two effects together" in dot


def test_what_are_no_single_effects_is_refused() -> None:
    noising, denoising = scores("noising", {"m0->logits": 1.0}), scores("denoising", {"m0->logits": 1.0})
    for first, second, told in (
        (denoising, noising, "the noising scores are by 'exact', direction 'denoising'"),
        (noising, noising, "the denoising scores are by 'exact', direction 'noising'"),
        (scores("between", {}), denoising, "direction 'between'"),
        (scores("noising", {}, method="acdc", estimates=RISE_WHEN_TRIED), denoising, "by 'acdc'"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            logic_gates(first, second)
    by_kl, by_logits = (
        EdgeScores.of(
            UNIVERSE, np.zeros(UNIVERSE.n_edges), method="exact", direction=direction, estimates="a rise",
            provenance={"objective": objective},
        )
        for direction, objective in (("noising", "kl"), ("denoising", "negative-logit-diff"))
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="their objective is 'kl' and 'negative-logit-diff'"):
        logic_gates(by_kl, by_logits)
    with pytest.raises(ConfigurationError, match="threshold is a share from 0 up to 1; got 1"):
        logic_gates(noising, denoising, threshold=1)
    other = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
    with pytest.raises(GraphMismatchError, match="noising and circuit"):
        logic_gates(noising, denoising, Circuit.from_edges(other, ["input->m0", "m0->logits"]))
