"""`circuitgraph extract`, on Tracr programs, which need no download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from circuitgraph import Circuit, compile_model, load_model
from circuitgraph.extract import extract_circuit, load_extracted
from circuitgraph.tracr import ground_truth_edges
from tests.circuitgraph.cli.conftest import call


@pytest.fixture(scope="module")
def universe():
    return compile_model(load_model("tracr:reverse"), embeddings="split").universe


@pytest.fixture
def saved(universe, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The program's own circuit, found under zero ablation unless the test says otherwise."""
    made = {"model": "tracr:reverse", "task": "tracr-reverse"}
    circuit = Circuit.from_edges(
        universe, ground_truth_edges("reverse"), ablation=getattr(request, "param", "zero"), provenance=made
    )
    return circuit.save(tmp_path / "circuit.json")


def test_a_folder_and_figures(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    ended = call("extract", saved, "--out", out, "--repeats", 2, "--json")
    assert ended.code == 0, ended.err
    found, module = ended.json, load_extracted(out)
    assert (found["model"], found["ablation"], found["out"]) == ("tracr:reverse", "zero", str(out))
    assert found["live_heads"] == ["a0.h0", "a3.h0"] == list(module.live_heads)
    assert found["live_mlps"] == ["m0", "m1", "m2"]
    assert found["n_parameters"] == module.n_parameters < found["n_parameters_model"]
    assert found["n_constants"] == module.n_constants
    assert 0 <= found["largest_difference"] < 1e-5
    speed = found["speed_up"]
    assert speed["ratio"] == pytest.approx(speed["model_seconds"] / speed["circuit_seconds"])
    assert speed["repeats"] == 2


def test_as_text(saved: Path, tmp_path: Path) -> None:
    ended = call("extract", saved, "--out", tmp_path / "small", "--repeats", 1)
    assert ended.code == 0, ended.err
    for said in ("layer 0: heads 0, MLP", "parameters (", "at every position", "model / circuit", "written to"):
        assert said in ended.out


def test_taken_and_replaced(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    again = ("extract", saved, "--out", out, "--repeats", 1)
    assert call(*again).code == 0
    first = (out / "weights.safetensors").read_bytes()
    ended = call(*again)
    assert (ended.code, "loading" in ended.err) == (2, False)
    assert "exists" in ended.err
    assert call(*again, "--ablation", "mean", "--overwrite").code == 0
    assert (out / "weights.safetensors").read_bytes() != first


@pytest.mark.parametrize("saved", ["counterfactual"], indirect=True)
def test_a_circuit_found_under_counterfactuals(saved: Path, tmp_path: Path) -> None:
    ended = call("extract", saved, "--out", tmp_path / "small")
    assert ended.code == 2
    assert "--ablation mean" in ended.err
    assert "loading" not in ended.err
    assert not (tmp_path / "small").exists()
    ended = call("extract", saved, "--out", tmp_path / "small", "--ablation", "mean", "--repeats", 1, "--json")
    assert ended.code == 0, ended.err
    assert "found under counterfactual ablation" in ended.err
    assert ended.json["ablation"] == "mean"


def test_means_are_over_the_training_prompts(saved: Path, tmp_path: Path) -> None:
    from pruning import load_task

    ended = call("extract", saved, "--out", tmp_path / "small", "--ablation", "mean", "--repeats", 1)
    assert ended.code == 0, ended.err
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split")
    train = load_task("tracr-reverse", loaded.tokenizer).splits["train"]
    values = compiled.ablation_values("mean", [train.batch(range(len(train))).clean])
    module = extract_circuit(Circuit.load(saved), compiled, values=values)
    ids = train.batch(range(5)).clean.input_ids
    with torch.no_grad():
        torch.testing.assert_close(load_extracted(tmp_path / "small")(ids), module(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("saved", ["optimal"], indirect=True)
def test_learnt_constants_are_in_no_circuit_file(saved: Path, tmp_path: Path) -> None:
    ended = call("extract", saved, "--out", tmp_path / "small")
    assert ended.code == 2
    assert "optimal-" in ended.err and "--ablation optimal" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--ablation", "meen"), "'mean'"), (("--task", "tracr-revers"), "'tracr-reverse'"), (("--repeats", "0"), "1")],
)
def test_refusals(saved: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = call("extract", saved, "--out", tmp_path / "small", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circuit.json"]


def test_a_circuit_without_a_task(universe, tmp_path: Path) -> None:
    bare = Circuit.from_edges(universe, ["tok->logits"], ablation="zero", provenance={"model": "tracr:reverse"})
    path = bare.save(tmp_path / "bare.json")
    assert "--task" in call("extract", path, "--out", tmp_path / "small").err
    ended = call("extract", path, "--out", tmp_path / "small", "--task", "tracr-reverse", "--repeats", 1, "--json")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "small" / "extracted.json").read_text())["live_heads"] == []
