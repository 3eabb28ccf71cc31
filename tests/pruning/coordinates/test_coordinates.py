"""Coordinates learnt inside a circuit: what was planted is found, and what is found is what runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.coordinates import Coordinates
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CircuitFormatError, ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe
from pruning.coordinates.learning import CoordinateSettings, learn_coordinates
from pruning.coordinates.measuring import measure_coordinates
from pruning.execution.objectives import kl_divergence
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 5, 4, 5, 4, 4, 4, 5], n_asked=(2,), seed=1)
PLANTED = {"a0.h1": [2], "a1.h0": [0, 3], "m0": [5, 40], "m1": [7]}
SETTINGS = CoordinateSettings(steps=40, rate=0.1, price=2e-4)


@pytest.fixture(scope="module")
def planted(tiny_gpt2) -> CompiledModel:
    """A model in which only the planted coordinates say anything, loudly."""
    model: Any = tiny_gpt2(dtype=torch.float64)
    with torch.no_grad():
        for layer, block in enumerate(model.transformer.h):
            heads, mlp = block.attn.c_proj.weight.view(3, 4, -1), block.mlp.c_proj.weight
            for head in range(3):
                for place in range(4):
                    heads[head, place] *= 4 if place in PLANTED.get(f"a{layer}.h{head}", ()) else 0
            for place in range(len(mlp)):
                mlp[place] *= 8 if place in PLANTED[f"m{layer}"] else 0
    return compile_model(model, verify=False)


def everything(compiled: CompiledModel, ablation: str) -> Circuit:
    return Circuit.from_edges(compiled.universe, np.ones(compiled.universe.n_edges, dtype=bool), ablation=ablation)


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean"])
def test_what_was_planted_is_found(planted: CompiledModel, ablation: str) -> None:
    circuit = everything(planted, ablation)
    found = learn_coordinates(planted, circuit, PROMPTS, SETTINGS)
    for name, kept in found.kept.items():
        places = set(np.flatnonzero(kept).tolist())
        assert places <= set(PLANTED.get(name, ())), f"{name} keeps what does nothing"
    got = {name: np.flatnonzero(kept).tolist() for name, kept in found.kept.items() if kept.any()}
    assert got == PLANTED
    table = measure_coordinates(planted, circuit, found, PROMPTS, n_random=3)
    assert table.loc["circuit", "kl"] < 1e-12 and table.loc["coordinates", "kl"] < 1e-12
    assert table.loc["drawn at random", "kl"] > 1e-3 and table.loc["the other coordinates", "kl"] > 1e-3
    assert table.loc["coordinates", "exact_match"] == 1 and table.loc["coordinates", "n_kept"] == 6


def test_as_many_as_asked_for_are_kept(planted: CompiledModel) -> None:
    circuit = everything(planted, "zero")
    quick = CoordinateSettings(steps=10, rate=0.1, price=2e-4)
    found = learn_coordinates(planted, circuit, PROMPTS, quick, writers=["m0", "a1.h0"], sparsity=0.9)
    assert list(found.kept) == ["m0", "a1.h0"] and found.n_coordinates == 48 + 4
    assert found.n_kept == round(0.1 * 52)
    assert set(np.flatnonzero(found.kept["m0"]).tolist()) >= set(PLANTED["m0"])


def test_a_measure_is_that_of_the_pass(planted: CompiledModel) -> None:
    """In a circuit with cut edges, one neuron kept: the pass with the others' rows of the last map taken out."""
    circuit = Circuit.from_edges(
        planted.universe, ["input->m0", "m0->m1", "m1->logits", "input->logits"], ablation="zero"
    )
    kept = {"m0": np.arange(48) == 5}
    table = measure_coordinates(planted, circuit, Coordinates.of(circuit, kept), PROMPTS, n_random=0)
    model: Any = planted.model
    batch = [PROMPTS.batch(np.array([place])) for place in range(len(PROMPTS))]
    teachers = [planted.logits(one.clean) for one in batch]
    weight = model.transformer.h[0].mlp.c_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[torch.arange(48) != 5] = 0
    edges, zeros = torch.from_numpy(circuit.mask).double(), planted.ablation_values("zero")
    with torch.no_grad():
        found = [
            float(kl_divergence(planted.masked(edges, one.clean, zeros).logits, teacher).mean())
            for one, teacher in zip(batch, teachers, strict=True)
        ]
        weight.copy_(before)
    assert table.loc["coordinates", "kl"] == pytest.approx(np.mean(found), abs=1e-9)
    assert table.loc["coordinates", "kl"] != pytest.approx(table.loc["circuit", "kl"], abs=1e-6)


def test_files_bring_back_the_coordinates(planted: CompiledModel, tmp_path: Path) -> None:
    circuit = everything(planted, "zero")
    found = Coordinates.of(circuit, {"m0": np.arange(48) < 3, "a0.h1": np.array([False] * 4)}, {"seed": 3})
    back = Coordinates.load(found.save(tmp_path / "c.json"))
    assert (back.universe, back.circuit, back.ablation, dict(back.provenance)) == (
        circuit.universe, circuit.digest, "zero", {"seed": 3},
    )  # fmt: skip
    assert all(np.array_equal(back.kept[name], kept) for name, kept in found.kept.items())
    assert back.table()[["writer", "n_kept", "n_coordinates", "kept"]].values.tolist() == [
        ["a0.h1", 0, 4, ""], ["m0", 3, 48, "0 1 2"],
    ]  # fmt: skip
    assert (found.n_kept, found.n_coordinates, found.sparsity) == (3, 52, 1 - 3 / 52)
    text = (tmp_path / "c.json").read_text()
    for bad, said in (
        ("{}", "no coordinates file"),
        (text.replace('"m0": 48', '"m0": 2'), "whole numbers from 0 to 1"),
    ):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(CircuitFormatError, match=said):
            Coordinates.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sizes": {"m0": "3"}}, "size of m0 has to be a whole number from 1; got '3'"),
        ({"sizes": {"m0": 10**18}}, "size of m0 has to be a whole number"),
        ({"sizes": {"m0": 3, "a0.h0": 4}}, "objects with the same writers"),
        ({"kept": {"m0": [True, False]}}, "m0 keeps has to be a list of whole numbers from 0 to 2"),
        ({"kept": {"m0": [0.5]}}, "m0 keeps has to be a list"),
        ({"kept": {"m0": [10**30]}}, "m0 keeps has to be a list"),
        ({"kept": {"m0": [1, 1]}}, "m0 keeps a coordinate twice"),
        ({"kept": {}}, "objects with the same writers"),
        ({"ablation": "none"}, "unknown ablation 'none'"),
        ({"ablation": 5}, "'ablation' has to be text; got 5"),
        ({"provenance": [["a", 1]]}, "'provenance' has to be an object"),
        ({"format_version": True}, "format_version is True"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_files_that_lie_are_refused(tmp_path: Path, changed: dict, said: str) -> None:
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    circuit = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
    file = Coordinates.of(circuit, {"m0": np.array([True, False, True])}).save(tmp_path / "c.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(CircuitFormatError, match=said):
        Coordinates.load(file)


def test_what_does_not_fit_is_refused(planted: CompiledModel) -> None:
    circuit = everything(planted, "zero")
    other = Circuit.from_edges(planted.universe, ["input->m0", "m0->logits"], ablation="zero")
    found = Coordinates.of(other, {"m0": np.ones(48, dtype=bool)})
    with pytest.raises(GraphMismatchError, match="another circuit"):
        measure_coordinates(planted, circuit, found, PROMPTS)
    with pytest.raises(ConfigurationError, match="m0 has 48 coordinates in this model; the coordinates given have 3"):
        measure_coordinates(planted, other, Coordinates.of(other, {"m0": np.ones(3, dtype=bool)}), PROMPTS)
    with pytest.raises(UnknownNameError, match="head or MLP that the circuit reads 'm1'"):
        learn_coordinates(planted, other, PROMPTS, writers=["m1"])
    with pytest.raises(ConfigurationError, match="a share to cut from 0 to 1; got 2"):
        learn_coordinates(planted, circuit, PROMPTS, sparsity=2)
    with pytest.raises(ConfigurationError, match="heads and MLPs of the universe.*got 'input'"):
        Coordinates.of(circuit, {"input": np.ones(3, dtype=bool)})
    for wrong in ({"rate": 0}, {"rate": float("inf")}, {"price": float("nan")}, {"steps": True}, {"steps": 0}):
        with pytest.raises(ConfigurationError, match="a rate above 0"):
            CoordinateSettings(**wrong)
    with pytest.raises(ConfigurationError, match="no writer was named"):
        measure_coordinates(planted, circuit, Coordinates.of(circuit, {}), PROMPTS)
    under_mean = Circuit.from_edges(planted.universe, other.mask, ablation="mean")
    with pytest.raises(GraphMismatchError, match="under zero ablation, and it is under mean here"):
        measure_coordinates(planted, under_mean, found, PROMPTS)
    spanned = planted.with_spans(["a", "b"], asked=["b"])
    whole = everything(spanned, "zero")
    with pytest.raises(ConfigurationError, match="does not know spans"):
        measure_coordinates(spanned, whole, Coordinates.of(whole, {"m0@a": np.ones(48, dtype=bool)}), PROMPTS)
    with pytest.raises(GraphMismatchError, match="n_layers"):
        far = Universe(family="gpt2", n_layers=1, n_heads=3, n_kv_heads=3)
        learn_coordinates(planted, Circuit.from_edges(far, ["input->logits"]), PROMPTS)
