"""Interventions as data: gates by strength, writers and edges, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from circuitgraph import Circuit, Universe
from circuitgraph.errors import CircuitFormatError, ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.interventions.intervention import Intervention

UNIVERSE = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)


def test_a_gate_is_one_and_strength_times_the_change() -> None:
    edges = {"a0.h1->m0": 0.5, "m0->logits": -2.0}
    gates = Intervention.from_edges(UNIVERSE, edges).gates(1.5)
    expected = {"a0.h1->m0": 1.75, "m0->logits": -2.0}
    for edge in range(UNIVERSE.n_edges):
        assert gates[edge] == expected.get(UNIVERSE.edge_name(edge), 1.0)


def test_a_writer_is_all_edges_out_of_it() -> None:
    off = Intervention.from_writers(UNIVERSE, {"a1.h3": -1})
    assert set(off) == {"a1.h3->m1", "a1.h3->logits"}
    assert off.writers == {"a1.h3": -1.0}
    half = Intervention.from_edges(UNIVERSE, ["a1.h3->m1"], change=-0.5)
    assert half.writers == {"a1.h3": None}  # the other edge is as it was


def test_a_circuit_keeps_its_cuts() -> None:
    circuit = Circuit.from_edges(UNIVERSE, ["input->m1", "m1->logits"], ablation="zero")
    gates = Intervention.from_writers(UNIVERSE, {"input": 1.0, "a0.h0": 3.0}).on_circuit(circuit, 0.5)
    found = {UNIVERSE.edge_name(int(edge)): gates[edge] for edge in np.flatnonzero(gates)}
    assert found == {"input->m1": 1.5, "m1->logits": 1.0}


@pytest.mark.parametrize("ablation", ["counterfactual", "mean", "optimal"])
def test_gates_that_mean_nothing_under_an_ablation_are_refused(ablation: str) -> None:
    change = Intervention.from_writers(UNIVERSE, {"m0": -1.0}, ablation=ablation)
    assert change.gates(1.0).min() == 0 and change.gates(0.5).min() == 0.5
    for strength, gate in ((-1.0, "2"), (2.0, "-1")):
        with pytest.raises(ConfigurationError, match=rf"the gate {gate}, which means nothing under {ablation}"):
            change.gates(strength)


@pytest.mark.parametrize(
    "edges, error, said",
    [
        ({"a0.h1->m9": 1.0}, UnknownNameError, "m9"),
        ({"a0.h1->m0": float("nan")}, ConfigurationError, "finite"),
        (["a0.h1->m0", "a0.h1->m0"], ConfigurationError, "more than once"),
    ],
)
def test_bad_edges_are_refused(edges: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Intervention.from_edges(UNIVERSE, edges)  # type: ignore[arg-type]


def test_bad_writers_and_numbers_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown writer 'a9.h9'"):
        Intervention.from_writers(UNIVERSE, {"a9.h9": 1.0})
    with pytest.raises(ConfigurationError, match=r"one change for each of the universe's"):
        Intervention(universe=UNIVERSE, changes=np.zeros(3))
    with pytest.raises(ConfigurationError, match="strength must be a finite number; got inf"):
        Intervention.from_writers(UNIVERSE, {}).gates(float("inf"))
    with pytest.raises(ConfigurationError, match="came twice"):
        Intervention.from_edges(UNIVERSE, {"input->m0": 1.0}, change=2.0)


def test_another_universe_is_refused_with_what_differs() -> None:
    other = Universe(family="llama", n_layers=3, n_heads=4, n_kv_heads=2)
    with pytest.raises(GraphMismatchError, match="n_layers"):
        Intervention.from_writers(UNIVERSE, {"m0": 1}).require_universe(other)


def test_small_changes_can_be_taken_out() -> None:
    whole = Intervention.from_edges(UNIVERSE, {"a0.h1->m0": 0.02, "m0->logits": -0.5, "input->m0": 0.021})
    for below in (float("nan"), -1.0):
        with pytest.raises(ConfigurationError, match="small below a number from 0"):
            whole.without_small(below)
    assert dict(whole.without_small(0.02)) == {"m0->logits": -0.5, "input->m0": 0.021}


# ---------------------------------------------------------------- files


def test_a_file_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    changes = np.zeros(UNIVERSE.n_edges)
    changes[::7] = np.random.default_rng(0).normal(size=len(changes[::7]))
    saved = Intervention(universe=UNIVERSE, changes=changes, provenance_json='{"task": "ioi", "seed": 3}')
    read = Intervention.load(saved.save(tmp_path / "steer.json"))
    assert read == saved and read.provenance == {"task": "ioi", "seed": 3}
    assert read != Intervention.from_writers(UNIVERSE, {})


def damaged(tmp_path: Path, change) -> Path:
    path = Intervention.from_writers(UNIVERSE, {"m0": 1.0}).save(tmp_path / "steer.json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda values: values["edges"].update({"m0->m9": 1.0}), "m9"),
        (lambda values: values["edges"].update({"m0->m1": "much"}), "edge names and numbers"),
        (lambda values: values["edges"].update({"m0->m1": True}), "edge names and numbers"),
        (lambda values: values["edges"].update({"m0->m1": 10**400}), "too large to convert to float"),
        (lambda values: values.update(universe=3), "'universe' has to be an object; got int"),
        (lambda values: values.update(format_version=True), "format_version is True"),
        (lambda values: values.pop("ablation"), "the field 'ablation' is missing"),
        (lambda values: values.update(ablation="none"), "ablation must be one of"),
        (lambda values: values.update(format_version=2), "format_version is 2"),
        (lambda values: values.update(format="circuit"), "no intervention file"),
        (lambda values: values["universe"].update(n_layers=0), "n_layers"),
        (lambda values: values.update(provenance=[]), "steer.json"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, change, said: str) -> None:
    with pytest.raises(CircuitFormatError, match=said):
        Intervention.load(damaged(tmp_path, change))


@pytest.mark.parametrize("text", ["", "[1]", '{"format": "circuitgraph intervention", "format": 1}', "{"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(CircuitFormatError, match=r"other\.json: no intervention file"):
        Intervention.load(path)
    with pytest.raises(CircuitFormatError, match="cannot be read"):
        Intervention.load(tmp_path / "missing.json")


def test_the_file_fits_its_schema(tmp_path: Path) -> None:
    import jsonschema

    schema = json.loads((Path(__file__).parents[3] / "docs/reference/schemas/intervention.schema.json").read_text())
    saved = Intervention.from_writers(UNIVERSE, {"m0": 1.0}, provenance={"task": "ioi"}).save(tmp_path / "steer.json")
    jsonschema.validate(json.loads(saved.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(saved.read_text()), "edges": {"m0->m1": "much"}}, schema)
