"""`circuitgraph extract`: what it says of a circuit of which nothing is left that reads the prompt."""

from __future__ import annotations

from pathlib import Path

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from tests.circuitgraph.cli.conftest import call


def test_it_says_that_what_is_extracted_is_a_constant(tmp_path: Path) -> None:
    # Under mean ablation a head whose value reads nothing that runs says a constant, whatever its key reads.
    compiled = compile_model(load_model("induction-neox"), verify=False)
    told = {}
    for name, more in (("keys", []), ("values", ["input->a1.h2<v>"])):
        circuit = Circuit.from_edges(
            compiled.universe,
            ["input->a0.h1<v>", "a0.h1->a1.h2<k>", "a1.h2->logits", *more],
            ablation="counterfactual",
            provenance={**compiled.identity, "task": "induction", "seed": 0},
        )
        file = circuit.save(tmp_path / f"{name}.json")
        ended = call("extract", file, "--ablation", "mean", "--repeats", 1, "--no-verify", "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        told[name] = "nothing that is left reads an embedding" in ended.err
    assert told == {"keys": True, "values": False}
