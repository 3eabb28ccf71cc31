"""`evaluate --minimality`: which edges are idle, from the command line."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.cli.figures import print_minimality
from tests.circuitgraph.cli.conftest import call


def test_minimality_is_what_the_circuit_loses_without_the_edge(text_result, tmp_path) -> None:
    file, few = text_result / "circuit.json", ("--n-random", 0, "--no-verify", "--json")
    found = call("evaluate", file, "--minimality", 2, "--minimality-subsets", 1, *few)
    assert found.code == 0, found.err
    minimal, metrics, circuit = found.json["minimality"], found.json["metrics"], Circuit.load(file)
    weakest = np.argsort(np.abs(circuit.scores), kind="stable")[:2]
    assert {row["edge"] for row in minimal["edges"]} == {list(circuit)[place] for place in weakest}
    assert (minimal["n"], minimal["n_subsets"], minimal["share"]) == (6, 1, 0.1)
    row = minimal["edges"][0]
    without = Circuit.from_edges(
        circuit.universe, [edge for edge in circuit if edge != row["edge"]], ablation=circuit.ablation,
        provenance=circuit.provenance,
    ).save(tmp_path / "without.json")  # fmt: skip
    left = call("evaluate", without, *few).json["metrics"]["circuit"]["kl"]
    assert row["alone"] == pytest.approx(left - metrics["circuit"]["kl"], abs=1e-6)
    assert abs(row["most"]) >= abs(row["alone"])
    assert "2 weakest edges alone and beside 1 subset of the others, on 6 prompts" in found.err


def test_a_share_that_is_none_is_refused_before_anything_is_run(tmp_path) -> None:
    told = call("evaluate", tmp_path / "none.json", "--minimality", 2, "--minimality-share", 1)
    assert told.code == 2 and "above 0 and below 1; got 1" in told.err


def test_for_people_the_idlest_stand_first(capsys) -> None:
    edges = [{"edge": f"m{n}->logits", "score": 0.5, "alone": 0.1 * n, "most": 0.2 * n} for n in range(3)]
    print_minimality({"edges": edges, "measure": "kl", "n_subsets": 4, "n": 16}, top=2)
    told = capsys.readouterr().out
    assert "KL (nats) where one of the 3 weakest edges is cut alone and beside 4 subsets, 16 prompts" in told
    assert "m1->logits" in told and "m2->logits" not in told and "1 of 3 change nothing at all" in told
