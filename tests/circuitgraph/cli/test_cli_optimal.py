"""Optimal ablation on the command line: discover, evaluate, run, extract and rank, with constants in files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.constants import constants_file
from tests.circuitgraph.cli.conftest import call

pytestmark = pytest.mark.slow

TRACR = ("--model", "tracr:reverse", "--task", "tracr-reverse", "--task-option", "max_length=3")
BRIEF = ("--n-random", 1, "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("optimal") / "found"
    ended = call(
        "discover", *TRACR, "--recipe", "quick", "--ablation", "optimal", "--steps", 12, "--target-sparsity", 0.95,
        "--set", "refine_steps=15", "--n-random", 1, "--out", place,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return place


def test_a_result_is_evaluated_again_to_the_same_numbers(folder: Path) -> None:
    circuit = Circuit.load(folder / "circuit.json")
    assert circuit.ablation == "optimal" and (folder / constants_file(circuit)).is_file()
    recorded = json.loads((folder / "metrics.json").read_text())["splits"]["test"]["circuit"]["kl"]
    ended = call("evaluate", folder / "circuit.json", *BRIEF)
    assert ended.code == 0, ended.err
    assert ended.json["metrics"]["circuit"]["kl"] == pytest.approx(recorded, rel=1e-9)
    assert ended.json["constants"] == {"file": str(folder / constants_file(circuit)), "learnt_now": False}
    mean = call("evaluate", folder / "circuit.json", "--ablation", "mean", *BRIEF)
    assert mean.json["metrics"]["circuit"]["kl"] != pytest.approx(recorded, rel=1e-3)


def test_it_runs_extracts_and_completes(folder: Path, tmp_path: Path) -> None:
    for arguments in (
        ("run", folder / "circuit.json", "--prompt", "BOS 1 2 3"),
        ("extract", folder / "circuit.json", "--out", tmp_path / "small", "--repeats", 1),
        ("report", folder, "--only", "evaluation"),
    ):
        ended = call(*arguments)
        assert ended.code == 0, (arguments, ended.err)


def test_another_circuits_constants_are_learnt_and_kept(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "circuit.json"
    shutil.copy(folder / "circuit.json", path)
    refused = call("run", path, "--prompt", "BOS 1 2 3")
    assert refused.code == 2 and f"circuitgraph evaluate {path} --ablation optimal" in refused.err
    first = call("evaluate", path, "--constants-steps", 5, *BRIEF)
    assert first.code == 0 and first.json["constants"]["learnt_now"], first.err
    again = call("evaluate", path, *BRIEF)
    assert not again.json["constants"]["learnt_now"]
    assert again.json["metrics"]["circuit"] == first.json["metrics"]["circuit"]
    assert call("run", path, "--prompt", "BOS 1 2 3").code == 0


def test_rank_learns_them_first_or_takes_a_file(folder: Path, tmp_path: Path) -> None:
    options = ("rank", *TRACR, "--ablation", "optimal", "--out")
    ended = call(*options, tmp_path / "a", "--json")
    assert ended.code == 0 and ended.json["ablation"] == "optimal", ended.err
    given = ("--constants", tmp_path / "a" / "constants.safetensors")
    again = call(*options, tmp_path / "b", *given, "--json")
    assert again.code == 0 and again.json["sha256"] == ended.json["sha256"]
    circuit = Circuit.load(folder / "circuit.json")
    other = call(*options, tmp_path / "c", "--constants", folder / constants_file(circuit), "--json")
    assert other.code == 0 and other.json["sha256"] != ended.json["sha256"]


def test_any_method_of_discover(tmp_path: Path) -> None:
    """A ranker's constants are learnt first, then on for the circuit that its scores give."""
    ended = call(
        "discover", *TRACR, "--method", "eap", "--ablation", "optimal", "--target-sparsity", 0.9, "--n-random", 0,
        "--out", tmp_path / "x",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    circuit = Circuit.load(tmp_path / "x" / "circuit.json")
    again = call("evaluate", tmp_path / "x" / "circuit.json", *BRIEF)
    assert again.code == 0 and not again.json["constants"]["learnt_now"], again.err
    recorded = json.loads((tmp_path / "x" / "metrics.json").read_text())["splits"]["test"]["circuit"]["kl"]
    assert circuit.ablation == "optimal"
    assert again.json["metrics"]["circuit"]["kl"] == pytest.approx(recorded, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rank", *TRACR, "--out", "x", "--method", "eap-ig", "--ablation", "optimal"), "needs counterfactual"),
        (("rank", *TRACR, "--out", "x", "--constants", "c"), "add --ablation optimal"),
        (("evaluate", "FOLDER/circuit.json", "--ablation", "zero", "--constants", "c"), "is for optimal ablation"),
        (("evaluate", "FOLDER/circuit.json", "--constants", "FOLDER/gates.safetensors"), "expected learnt constants"),
        (("compare", "a=FOLDER/circuit.json", "b=FOLDER/circuit.json", "--on-task", "own"), "constants of its own"),
        (("discover", *TRACR, "--ablation", "optimal", "--seeds", "0,1", "--out", "x"), "train one seed at a time"),
    ],
)
def test_refusals(folder: Path, arguments: tuple[object, ...], said: str) -> None:
    ended = call(*(str(one).replace("FOLDER", str(folder)) for one in arguments))
    assert ended.code == 2 and said in ended.err, ended.err
