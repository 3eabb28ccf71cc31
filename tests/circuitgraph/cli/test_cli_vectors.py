"""Vectors on the command line: every circuit that a command writes has its vectors beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.vector_files import save_vectors, vectors_beside
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.virtual import VECTOR_FILE
from tests.circuitgraph.cli.conftest import call

pytestmark = pytest.mark.slow

PROMPTS = ("--model", "induction-neox", "--task", "induction", "--train-size", 4)
WIDTH = 96


def vectors(file: Path, scale: float = 1.0) -> Path:
    return save_vectors([Vector(name="v@1", value=torch.linspace(-scale, scale, WIDTH))], file)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    options = ("--method", "eap", "--direction", "both", "--top", 40, "--no-verify")
    ended = call("rank", *PROMPTS, "--vectors", vectors(folder / "v.safetensors"), *options, "--out", folder / "ranked")
    assert ended.code == 0, ended.err
    return folder / "ranked"


def test_a_ranking_keeps_its_vectors(ranked: Path) -> None:
    circuit = Circuit.load(ranked / "circuit.json")
    assert circuit.universe.virtual == ("v@1",) and circuit.provenance["vectors"]
    assert vectors_beside(circuit, ranked / "circuit.json") == ranked / VECTOR_FILE
    assert call("evaluate", ranked / "circuit.json", "--n-random", 0, "--no-verify").code == 0


def test_an_intervention_runs_with_the_vectors_beside_it(ranked: Path, tmp_path: Path) -> None:
    options = ("--vectors", ranked / VECTOR_FILE, "--steps", 1, "--test-size", 4, "--no-verify")
    ended = call("steer", *PROMPTS, *options, "--out", tmp_path / "steer.json")
    assert ended.code == 0, ended.err
    assert (tmp_path / VECTOR_FILE).read_bytes() == (ranked / VECTOR_FILE).read_bytes()
    ended = call("run", "--with", tmp_path / "steer.json", "--prompt", "A B A", "--no-verify")
    assert ended.code == 0, ended.err


def test_what_is_made_of_it_has_them_too(ranked: Path, tmp_path: Path) -> None:
    circuit = ranked / "circuit.json"
    commands = {
        "select": ("select", ranked, "-n", 30, "--out"),
        "combine": ("combine", f"a={circuit}", f"b={circuit}", "--op", "union", "--out"),
        "find": ("find", circuit, "v@1->*", "--save"),
        "gates": ("gates", ranked, "--faithful"),
    }
    for name, command in commands.items():
        (tmp_path / name).mkdir()
        made = tmp_path / name / "made.json"
        ended = call(*command, made)
        assert ended.code == 0, (name, ended.err)
        assert vectors_beside(Circuit.load(made), made) == made.parent / VECTOR_FILE, name
    # Others that lie there already stay, and that is said.
    mine = vectors(tmp_path / "select" / VECTOR_FILE, 5.0).read_bytes()
    ended = call("select", ranked, "-n", 20, "--out", tmp_path / "select" / "other.json")
    assert ended.code == 0 and "vectors.safetensors has others" in ended.err
    assert (tmp_path / "select" / VECTOR_FILE).read_bytes() == mine
    refused = call("evaluate", tmp_path / "select" / "other.json")
    assert refused.code == 2 and "other vectors than" in refused.err
