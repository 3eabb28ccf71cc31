"""Vectors on disk, and beside the circuit that they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.vector_files import load_vectors, save_vectors, vectors_beside
from circuitgraph.errors import CircuitFormatError, ConfigurationError, GraphMismatchError
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.universe import Universe
from circuitgraph.graph.virtual import VECTOR_FILE

VECTORS = (
    Vector(name="v@1", value=torch.tensor([1.0, -2.5], dtype=torch.float64), at=-1),
    Vector(name="task@0", value=torch.tensor([0.5, 3.0], dtype=torch.bfloat16), at="all"),
)


def test_they_come_back_as_they_were(tmp_path: Path) -> None:
    back = load_vectors(save_vectors(VECTORS, tmp_path / "v.safetensors", {"task": "antonyms"}))
    assert [(one.name, one.at, one.value.dtype) for one in back] == [(v.name, v.at, v.value.dtype) for v in VECTORS]
    assert [one.digest for one in back] == [one.digest for one in VECTORS]
    assert len({one.digest for one in VECTORS}) == 2


def test_the_digest_is_of_numbers_and_positions() -> None:
    (one, _) = VECTORS
    assert Vector(name="other@0", value=one.value, at=one.at).digest == one.digest
    assert Vector(name=one.name, value=one.value, at=0).digest != one.digest
    assert Vector(name=one.name, value=2 * one.value, at=one.at).digest != one.digest


def test_files_that_hold_no_vectors_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.ones(2)}, other)
    with pytest.raises(CircuitFormatError, match="expected vectors of format_version 1.* a file without one"):
        load_vectors(other)
    other.write_bytes(b"\x80\x04not safe")
    with pytest.raises(CircuitFormatError, match="cannot be read as vectors"):
        load_vectors(other)
    save_file({"v@0": torch.ones(2)}, other, metadata={"format_version": "1", "at": '{"w@0": "all"}'})
    with pytest.raises(CircuitFormatError, match="w@0"):
        load_vectors(other)
    with pytest.raises(ConfigurationError, match="a name each; got v@1, v@1"):
        save_vectors([VECTORS[0], VECTORS[0]], other)
    with pytest.raises(ConfigurationError, match="about: expected JSON values"):
        save_vectors(VECTORS, other, {"scale": float("nan")})


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ('{"v@0": "all"}', "for each of the tensors v@0, w@0; got"),
        ("{}", "for each of the tensors"),
        ("[]", "for each of the tensors"),
        ('{"v@0": "all", "w@0": 1, "v@0": 3}', "'v@0' comes twice"),
        ('{"v@0": true, "w@0": 1}', "got True"),
        ('{"v@0": ' + 900 * "[" + 900 * "]" + "}", "nested deeper"),
    ],
)
def test_places_that_lie_are_refused(tmp_path: Path, at: str, said: str) -> None:
    """No tensor is left out silently, and none is placed twice."""
    file = tmp_path / "v.safetensors"
    save_file({"v@0": torch.ones(2), "w@0": torch.ones(2)}, file, metadata={"format_version": "1", "at": at})
    with pytest.raises(CircuitFormatError, match=said):
        load_vectors(file)


def test_one_tensor_may_be_several_vectors(tmp_path: Path) -> None:
    value = torch.arange(3.0)
    both = [Vector(name="v@0", value=value), Vector(name="v@1", value=value, at=0)]
    back = load_vectors(save_vectors(both, tmp_path / "v.safetensors"))
    assert [(one.name, one.at, one.value.tolist()) for one in back] == [
        ("v@0", "asked", [0.0, 1.0, 2.0]), ("v@1", 0, [0.0, 1.0, 2.0]),
    ]  # fmt: skip


def test_a_circuit_finds_its_own_vectors_beside_it(tmp_path: Path) -> None:
    universe = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1, virtual=("v@1", "task@0"))
    known = {vector.name: vector.digest for vector in VECTORS}
    circuit = Circuit.from_edges(universe, ["v@1->logits"]).with_provenance({"vectors": known})
    path = circuit.save(tmp_path / "circuit.json")
    with pytest.raises(GraphMismatchError, match=f"task@0, v@1.*{VECTOR_FILE} is not beside it"):
        vectors_beside(circuit, path)
    file = save_vectors(VECTORS, tmp_path / VECTOR_FILE)
    assert vectors_beside(Circuit.load(path), path) == file
    changed = Vector(name="v@1", value=torch.ones(2), at=-1)
    save_vectors([changed, VECTORS[1]], file)
    with pytest.raises(GraphMismatchError, match="other vectors than"):
        vectors_beside(circuit, path)
    plain = Circuit.from_edges(Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1), ["input->logits"])
    assert vectors_beside(plain, path) is None
