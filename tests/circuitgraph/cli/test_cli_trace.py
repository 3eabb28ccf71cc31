"""`circuitgraph trace`: the tree for people, the table for programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from tests.circuitgraph.cli.conftest import call


@pytest.fixture(scope="module")
def reverse(tmp_path_factory) -> Path:
    compiled = compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)
    about = {**compiled.identity, "task": "tracr-reverse", "seed": 0, "ablation": "zero"}
    circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero", provenance=about)
    return circuit.save(tmp_path_factory.mktemp("trace") / "circuit.json")


def test_a_tree_and_a_table(reverse: Path, tmp_path: Path) -> None:
    ended = call("trace", reverse, "logits", "--depth", 2)
    assert ended.code == 0, ended.err
    assert "└─ a3.h0->logits  100 %" in ended.out and "tok->a3.h0<v>" in ended.out
    found = call("trace", reverse, "logits", "--depth", 2, "--no-verify", "--json").json
    assert found["edges"][0]["edge"] == "a3.h0->logits" and found["edges"][0]["restored"] == pytest.approx(1.0)
    assert (found["reader"], found["measure"], found["n_prompts"]) == ("logits", "kl", 16)
    assert call("trace", reverse, "logits", "--depth", 2, "--no-verify", "--out", tmp_path / "t.csv").code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [row["edge"] for row in rows] == [row["edge"] for row in found["edges"]]


def test_refused(reverse: Path) -> None:
    told = call("trace", reverse, "a3.h0<qq>")
    assert told.code == 2 and "a3.h0<q>" in told.err
    assert "no edge into m3" in call("trace", reverse, "m3").err
