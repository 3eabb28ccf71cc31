"""`circuitgraph coordinates`: two tables, a file, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.coordinates import Coordinates
from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from tests.circuitgraph.cli.conftest import call


@pytest.fixture(scope="module")
def reverse(tmp_path_factory) -> Path:
    compiled = compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)
    about = {
        **compiled.identity, "task": "tracr-reverse", "task_options": {"max_length": 3}, "seed": 0, "ablation": "zero",
    }  # fmt: skip
    circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero", provenance=about)
    return circuit.save(tmp_path_factory.mktemp("coordinates") / "circuit.json")


@pytest.mark.slow
def test_two_tables_and_a_file(reverse: Path, tmp_path: Path) -> None:
    ended = call(
        "coordinates", reverse, "--steps", 30, "--rate", 0.1, "--price", 1e-4, "--save", tmp_path / "c.json",
        "--no-verify", "--json",
    )  # fmt: skip
    assert ended.code == 0 and "no coordinate was closed" not in ended.err, ended.err
    found, back = ended.json, Coordinates.load(tmp_path / "c.json")
    assert (found["n_kept"], found["n_coordinates"]) == (back.n_kept, back.n_coordinates)
    assert 0 < found["n_kept"] < found["n_coordinates"]
    assert [row["writer"] for row in found["coordinates"]] == back.table()["writer"].tolist()
    runs = {row["run"]: row for row in found["measures"]}
    assert runs["circuit"]["exact_match"] == 1 and runs["coordinates"]["exact_match"] > runs["none"]["exact_match"]
    assert back.circuit == Circuit.load(reverse).digest


def test_it_says_where_nothing_was_closed(reverse: Path) -> None:
    ended = call("coordinates", reverse, "--steps", 1, "--no-verify", "--json")
    assert ended.json["n_kept"] == ended.json["n_coordinates"] and "no coordinate was closed" in ended.err


def test_refused(reverse: Path) -> None:
    assert "circuit reads 'm3'" in call("coordinates", reverse, "--writer", "m3", "--no-verify").err
    for save, said in ((reverse, "is a file that is read"), (reverse.parent / "none" / "c.json", "there is no folder")):
        before = reverse.read_bytes()
        ended = call("coordinates", reverse, "--steps", 1, "--save", save, "--no-verify")
        assert ended.code == 2 and said in ended.err and reverse.read_bytes() == before
    assert "from 0 to 1; got 3" in call("coordinates", reverse, "--sparsity", 3, "--no-verify").err
