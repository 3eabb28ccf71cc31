"""`discover --method`: what it writes, its settings, `--like`, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from tests.circuitgraph.cli.conftest import call
from tests.circuitgraph.cli.test_file_formats import complaints

pytestmark = pytest.mark.slow

TRACR = (
    "discover", "--model", "tracr:reverse", "--task", "tracr-reverse", "--task-option", "max_length=3", "--n-random", 1,
    "--set", "n_effects=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("any") / "reverse"
    ended = call(
        *TRACR, "--method", "gate-gradients", "--set", "batches=1", "--set", "levels=0.5", "--target-sparsity",
        "0.6,0.8", "--out", folder,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "gate-gradients (batches 1, levels (0.5,)), seed 0" in ended.err and "rule top at sparsity 0.6" in ended.err
    return folder


def test_every_file_is_there_and_nothing_else(found: Path) -> None:
    assert {path.name for path in found.iterdir()} == {
        "run.toml", "scores.safetensors", "scores.json", "circuit.json", "circuit-0.6.json", "circuit-0.8.json",
        "metrics.json", "examples.csv", "front.csv", "front.png", "circuit.dot", "circuit.pdf", "circuit.svg",
        "circuit.html", "report.md", "state.json",
    }  # fmt: skip
    circuit, scores = Circuit.load(found / "circuit.json"), EdgeScores.load(found)
    assert circuit.n_raw == round(0.4 * 94) and circuit.provenance["selection"]["scores"] == scores.digest
    assert circuit.provenance["settings"] == {"levels": [0.5], "batches": 1, "batch_size": 8}
    for name in ("circuit", "metrics", "scores", "state"):
        assert complaints(name, json.loads((found / f"{name}.json").read_text())) == []
    report = (found / "report.md").read_text()
    assert "| method settings | levels " in report and ", batches 1, batch_size 8 |" in report
    assert "| selection of edges | rule top, n 38, by strength" in report
    assert "gate-gradients" in report and "--method gate-gradients" in report and "## Curve" not in report


def test_a_missing_part_is_made_again(found: Path) -> None:
    (found / "report.md").unlink()
    (found / "front.png").unlink()
    ended = call("report", found, "--only", "report", "--only", "curve", "--json")
    assert ended.code == 0 and (ended.json["made"], ended.json["missing"]) == (["curve", "report"], {})
    assert (found / "front.png").is_file()
    assert call("report", found, "--json").json["made"] == []  # a curve is not missed


def test_like_an_earlier_result(found: Path, tmp_path: Path) -> None:
    again = call("discover", "--like", found, "--out", tmp_path / "again", "--dry-run", "--json")
    assert again.json["method"] == {"name": "gate-gradients", "options": {"batches": 1, "levels": [0.5]}}
    assert again.json["selection"]["sparsity"] == 0.6 and again.json["recipe"] is None
    # Another method: what was the first one's own does not hold, its prompts and its sparsity do.
    other = call("discover", "--like", found, "--method", "eap", "--out", tmp_path / "x", "--dry-run", "--json").json
    assert other["method"] == {"name": "eap", "options": {}} and other["objective"] == "cross-entropy"
    assert other["selection"]["sparsity"] == 0.6 and other["data_hash"] == again.json["data_hash"]
    trained = call(
        "discover", "--like", found, "--set", "method.name=edge-pruning", "--out", tmp_path / "x", "--dry-run", "--json"
    )
    assert trained.json["recipe"]["name"] == "tracr" and trained.json["recipe"]["target_sparsity"] == 0.6
    assert call("discover", "--like", found, "--out", tmp_path / "x", "--recipe", "quick").code == 2


def test_options_of_training_become_the_methods_own(tmp_path: Path) -> None:
    ended = call(*TRACR, "--method", "ugs", "--steps", 7, "--out", tmp_path / "x", "--dry-run", "--json")
    assert ended.code == 0 and ended.json["method"] == {"name": "ugs", "options": {"steps": 7}}
    nested = call(*TRACR, "--method", "nested", "--steps", 7, "--out", tmp_path / "x", "--dry-run", "--json").json
    assert (nested["recipe"]["name"], nested["recipe"]["steps"], nested["method"]) == ("nested", 7, None)
    checked = call("check", *TRACR[1:], "--method", "acdc", "--json")
    assert checked.code == 0 and checked.json["objective"] == "kl" and checked.json["memory"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "acd"), "unknown method 'acd'"),
        (("--method", "eap", "--recipe", "quick"), "'eap' trains by no recipe, and recipe 'quick' was named"),
        (("--method", "eap", "--steps", 9), "so it has no steps; its settings are direction, backward"),
        (("--method", "random", "--objective", "kl"), "'random' compares nothing"),
        (("--method", "eap-ig", "--ablation", "zero"), "'eap-ig' needs counterfactual ablation"),
        (("--method", "eap", "--set", "direction=up"), "unknown direction 'up'"),
        (("--method", "eap", "--rule", "best"), "unknown rule 'best'"),
        (("--method", "eap", "--rule", "threshold", "--target-sparsity", "0.9"), "takes a threshold and no n"),
        (("--rule", "top"), "trained gates become a circuit by the recipe's own rule"),
        (("--method", "eap", "--seeds", "0,1"), "several seeds are trained by a recipe"),
    ],
)
def test_refusals(tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    ended = call(*TRACR, "--out", tmp_path / "out", *options)
    assert ended.code == 2 and message in ended.err
    assert "ranking" not in ended.err and ("--seeds" in options or "loading" not in ended.err)
    assert list(tmp_path.iterdir()) == []


def test_training_begins_with_the_scores_of_another_result(found: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(found.parent)
    begun = ("--warm-start", f"./{found.name}", "--survivors", 40, "--survivors-by", "eap")
    ended = call(*TRACR, *begun, "--steps", 3, "--target-sparsity", 0.8, "--out", tmp_path / "x", "--json")
    assert ended.code == 0, ended.err
    assert "training the 40 strongest edges by eap; all others are cut" in ended.err
    told = Circuit.load(tmp_path / "x" / "circuit.json").provenance
    assert told["recipe"]["warm_start"] == told["warm_start"]["by"] == str(found)
    assert told["warm_start"]["scores"] == EdgeScores.load(found).digest
    assert (told["survivors"]["n"], told["survivors"]["by"]) == (40, "eap")
    like = call("discover", "--like", tmp_path / "x", "--out", tmp_path / "y", "--dry-run", "--json").json["request"]
    assert (like["survivors"], like["survivors_by"], like["recipe"]["warm_start"]) == (40, "eap", str(found))
    # What was of the training does not hold for a method that trains nothing.
    plain = call(
        "discover", "--like", tmp_path / "x", "--method", "eap", "--out", tmp_path / "y", "--dry-run", "--json"
    )
    assert plain.json["request"]["survivors"] is None
    assert plain.json["request"]["selection"]["sparsity"] == 0.8  # its own, not that of all methods
    several = call(*TRACR, "--survivors", 40, "--seeds", "0,1", "--out", tmp_path / "z")
    assert several.code == 2 and "survivors are others for every seed" in several.err


def test_a_run_that_is_ended_leaves_its_scores(tmp_path: Path, monkeypatch) -> None:
    def stop(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("pruning.runs.measuring.evaluate", stop)
    place = tmp_path / "x"
    ended = call(*TRACR, "--method", "eap", "--out", place)
    assert ended.code == 130
    assert f"what was learnt by then is in {place}; `circuitgraph report {place}` makes what is missing" in ended.err
    monkeypatch.undo()
    assert json.loads((place / "state.json").read_text())["missing"][0]["part"] == "evaluation:validation"
    again = call("discover", "--resume", place)
    assert again.code == 2 and f"circuitgraph report {place}" in again.err
    made = call("report", place, "--json")
    assert made.code == 0 and made.json["missing"] == {} and "evaluation:test" in made.json["made"]
