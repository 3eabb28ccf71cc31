"""Scores that a training begins with: α by any scores, and gates of the strongest edges alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import (
    CircuitFormatError,
    ConfigurationError,
    GraphMismatchError,
    IncompleteResultWarning,
    UnknownNameError,
)
from pruning.methods.edge_pruning.gates import Gates
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.runs.choice_files import read_run_file
from pruning.runs.discover import discover
from pruning.runs.given_scores import started_later
from pruning.runs.rank import rank_edges
from pruning.runs.run import run_from, run_of
from tests.pruning.runs.test_any_method import QUICK, compiled, task  # noqa: F401  (fixtures)

N = 46
"""Edges of the model."""
UNTRAINED = {"steps": 1, "learning_rate": 1e-9, "init_mean": 0.5, "init_std": 2.0, "recipe": "paper-gpt2"}
"""One step that moves nothing: α are as they began."""


def scores_of(compiled, values: np.ndarray, estimates: str = "a rank") -> EdgeScores:  # noqa: F811
    return EdgeScores.of(compiled.universe, values, method="mine", direction="noising", estimates=estimates)


def test_gates_begin_by_the_strength_of_any_scores(compiled, task, tmp_path) -> None:  # noqa: F811
    values = np.random.default_rng(0).normal(size=N)
    for estimates, strength in (("a rank", np.abs(values)), ("log-alpha", np.log1p(np.exp(values)))):
        saved = scores_of(compiled, values, estimates).save(tmp_path / estimates.replace(" ", "-"))
        found = discover(compiled, task, warm_start=str(saved), **UNTRAINED, **QUICK)
        order = np.log(strength)
        by_hand = 0.5 + 2.0 * (order - order.mean()) / order.std()
        np.testing.assert_allclose(found.run.gates.log_alpha.detach().numpy(), by_hand, atol=2e-5)
        told = found.circuit.provenance
        assert told["recipe"]["warm_start"] == str(saved) and told["warm_start"]["method"] == "mine"
        assert told["warm_start"]["scores"] == EdgeScores.load(saved).digest


def test_gates_begin_by_a_method(compiled, task) -> None:  # noqa: F811
    found = discover(compiled, task, warm_start="eap-ig", **UNTRAINED, **QUICK)
    scores = rank_edges(compiled, task, "eap-ig")
    gates = Gates(compiled.gate_map, init_mean=0, init_std=0, generator=torch.Generator())
    gates.start_from(torch.from_numpy(np.abs(scores.values)), mean=0.5, spread=2.0)
    torch.testing.assert_close(found.run.gates.log_alpha, gates.log_alpha, atol=2e-5, rtol=0)
    assert found.circuit.provenance["warm_start"] == {
        "by": "eap-ig", "method": "eap-ig", "settings": {"steps": 5, "backward": "standard"}, "scores": scores.digest,
    }  # fmt: skip


def test_only_survivors_are_trained(compiled, task, tmp_path) -> None:  # noqa: F811
    place = tmp_path / "result"
    found = discover(
        compiled,
        task,
        "quick",
        survivors=12,
        survivors_by="eap",
        target_sparsity=0.85,
        start_sparsity=0.3,
        steps=4,
        out=place,
        **QUICK,
    )
    scores = rank_edges(compiled, task, "eap")
    strongest = np.argsort(-np.abs(scores.values), kind="stable")[:12]
    gate_map = found.run.gates.gate_map
    assert np.flatnonzero(gate_map.parameter_of_edge >= 0).tolist() == sorted(strongest.tolist())
    assert set(found.circuit.edge_ids.tolist()) <= set(strongest.tolist())
    assert found.circuit.n_raw == round(0.15 * N)
    told = found.circuit.provenance["survivors"]
    assert (told["n"], told["by"], told["scores"]) == (12, "eap", scores.digest)
    # Held exactly: four fifths of the survivors are open at the start, and the sparsity counts all edges.
    assert told["start_sparsity"] == pytest.approx(1 - 0.8 * 12 / N)
    assert found.run.records[0].target == pytest.approx(told["start_sparsity"])
    # Measured in the whole graph: the complement holds what was removed.
    assert found.circuit.provenance["edits"]["removed"] == 0
    assert found.metrics["splits"]["test"]["complement"]["n_edges"] > 12
    assert run_from(compiled, task, read_run_file(place)).request == found.request
    assert found.request.recipe.start_sparsity == 0.3


def test_a_run_that_was_killed_goes_on_with_the_same_survivors(compiled, task, tmp_path, monkeypatch) -> None:  # noqa: F811
    how = {"steps": 6, "survivors": 12, "survivors_by": "random", "warm_start": "eap", "target_sparsity": 0.85, **QUICK}
    whole = discover(compiled, task, "quick", **how)
    place = tmp_path / "result"

    def stop(record) -> None:
        if record.step == 2:
            raise KeyboardInterrupt

    with pytest.warns(IncompleteResultWarning):
        discover(compiled, task, "quick", out=place, watch=stop, **how)
    monkeypatch.setattr("pruning.runs.given_scores.ranked", lambda *given, **named: pytest.fail("ranked again"))
    again = discover(compiled, task, "quick", out=place, resume=True, **how)
    assert torch.equal(again.run.gates.log_alpha, whole.run.gates.log_alpha)
    assert again.circuit.provenance["survivors"] == whole.circuit.provenance["survivors"]
    assert again.circuit.provenance["warm_start"]["method"] == "eap"
    assert Circuit.load(place / "circuit.json").edge_ids.tolist() == whole.circuit.edge_ids.tolist()
    assert not (place / "checkpoint").exists() and json.loads((place / "state.json").read_text())["finished"]


def test_a_sparsity_that_survivors_can_have() -> None:
    quick, paper, nested = (recipe_named(name) for name in ("quick", "paper-gpt2", "nested"))
    assert started_later(quick, 0.5) == quick
    assert started_later(quick, 0.1).start_sparsity == pytest.approx(0.92)
    assert started_later(nested, 0.1).start_sparsity == pytest.approx(0.92)
    assert started_later(paper, 0.1).start_sparsity == pytest.approx(0.9)  # gates begin open, and the ramp with them


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"warm_start": "eapp"}, UnknownNameError, "unknown warm start 'eapp'; did you mean 'eap'"),
        ({"warm_start": "nested"}, UnknownNameError, "a path, such as ./nested"),
        ({"survivors": 9, "survivors_by": "eapp"}, UnknownNameError, "unknown method for survivors 'eapp'"),
        ({"survivors_by": "eap"}, ConfigurationError, "survivors says how many edges"),
        ({"survivors": 47}, ConfigurationError, "47 edges are to survive, and the graph has 46"),
        ({"survivors": 7, "target_sparsity": 0.85}, ConfigurationError, "0.85 keeps 7, so there is nothing to train"),
        ({"survivors": 9, "method": "eap"}, ConfigurationError, "nothing is trained here"),
        ({"warm_start": "eap", "method": "eap"}, ConfigurationError, "so it has no warm_start"),
        ({"warm_start": "eap-ig", "ablation": "zero"}, ConfigurationError, "'eap-ig' needs counterfactual ablation"),
        ({"warm_start": "./nowhere"}, CircuitFormatError, "scores.json"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(compiled, task, given, error, message: str) -> None:  # noqa: F811
    with pytest.raises(error, match=message):
        discover(compiled, task, **given, **QUICK)


def test_scores_of_another_universe_and_an_edited_graph_are_refused(compiled, task, tiny_gpt2, tmp_path) -> None:  # noqa: F811
    other = compile_model(tiny_gpt2(n_heads=3), verify=False)
    saved = EdgeScores.of(
        other.universe, np.ones(other.universe.n_edges), method="mine", direction="noising", estimates="a rank"
    ).save(tmp_path / "other")
    for given in ({"warm_start": str(saved)}, {"survivors": 20, "survivors_by": str(saved)}):
        with pytest.raises(GraphMismatchError, match="n_heads"):
            discover(compiled, task, steps=2, **given, **QUICK)
    graph = compiled.graph.copy()
    graph.remove_edge("input", "logits")
    with pytest.raises(ConfigurationError, match=r"this one is edited \(removed edges\)"):
        discover(compiled.with_graph(graph), task, steps=2, survivors=20, **QUICK)
    assert run_of(compiled, task, None, {"warm_start": "runs/x"}).recipe.warm_start.startswith("/")
