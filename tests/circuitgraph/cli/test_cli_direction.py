"""`--direction` of `rank`, `discover` and `evaluate`: what files and JSON say, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from tests.circuitgraph.cli.conftest import call

MODEL = ("--model", "induction-neox", "--task", "induction", "--train-size", 4)


@pytest.mark.slow
def test_both_directions_from_the_command_line(tmp_path) -> None:
    ended = call("rank", *MODEL, "--direction", "both", "--top", 20, "--out", tmp_path / "both", "--json")
    assert ended.code == 0 and ended.json["direction"] == "both"
    both = EdgeScores.load(tmp_path / "both")
    halves = {way: EdgeScores.load(tmp_path / "both" / way) for way in ("noising", "denoising")}
    assert both.direction == "both" and [half.direction for half in halves.values()] == list(halves)
    assert np.allclose(both.values, sum(np.abs(half.values) for half in halves.values()), rtol=1e-6)
    gates = call("gates", tmp_path / "both", "--json").json
    assert gates["scores"]["noising"]["sha256"] == halves["noising"].digest and gates["n"]["ADDER"] > 0
    refused = call("gates", tmp_path / "both" / "noising")
    assert refused.code == 2 and "has no scores of both directions alone" in refused.err
    measured = call("evaluate", tmp_path / "both" / "circuit.json", "--n-random", 0, "--direction", "both", "--json")
    assert measured.json["direction"] == "both"
    assert measured.json["metrics"]["circuit"]["kl"] != measured.json["denoising"]["metrics"]["circuit"]["kl"]
    sizes = (
        "--validation-size",
        0,
        "--test-size",
        4,
        "--target-sparsity",
        0.8,
        "--n-random",
        0,
        "--set",
        "n_effects=0",
    )
    found = call(
        "discover", *MODEL, *sizes, "--method", "eap", "--direction", "denoising", "--out", tmp_path / "other", "--json"
    )
    assert found.code == 0, found.err
    path = tmp_path / "other" / "circuit.json"
    assert Circuit.load(path).provenance["direction"] == "denoising"
    # A circuit is measured as it was found, unless another direction is asked for.
    own = call("evaluate", path, "--n-random", 0, "--json")
    assert own.json["direction"] == "denoising"
    assert own.json["metrics"]["circuit"]["kl"] == pytest.approx(found.json["splits"]["test"]["circuit"]["kl"])
    other = call("evaluate", path, "--n-random", 0, "--direction", "noising", "--json")
    assert other.json["data_hash"] != own.json["data_hash"]


def test_what_makes_no_sense_is_refused_before_anything_is_loaded(tmp_path) -> None:
    wrong = call("rank", *MODEL, "--direction", "denoise", "--out", tmp_path / "x")
    assert wrong.code == 2 and "unknown direction 'denoise'; did you mean 'denoising'" in wrong.err
    zero = call("rank", *MODEL, "--direction", "both", "--ablation", "zero", "--out", tmp_path / "x")
    assert zero.code == 2 and "needs counterfactual ablation" in zero.err
    twice = call("rank", *MODEL, "--direction", "both", "--set", "direction=denoising", "--out", tmp_path / "x")
    assert twice.code == 2 and "give one of the two" in twice.err
    asked = call("discover", *MODEL, "--direction", "both", "--ablation", "mean", "--out", tmp_path / "x")
    assert asked.code == 2 and "needs counterfactual ablation" in asked.err
