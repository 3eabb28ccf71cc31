"""`transfer`: circuits that are found, the same ones given as files, and what is refused before a model is loaded."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.circuitgraph.cli.conftest import call

FOUND = ("transfer", "-m", "tracr:reverse", "-t", "tracr-reverse", "--by", "eap", "--no-verify")


@pytest.mark.slow
def test_found_circuits_and_the_same_as_files(tmp_path):
    found = call(*FOUND, "--zoom", 0, "--sizes", "0.1,0.3,1", "--out", tmp_path / "found", "--json")
    assert found.code == 0, found.err
    assert found.json["faithfulness_own"] == [{"task": "tracr-reverse", "tracr-reverse": 1.0}]
    assert found.json["measures"] == {"tracr-reverse": "kl"}
    tried = pd.read_csv(tmp_path / "found" / "tried.csv")
    assert tried["enough"].tolist()[-1] and not tried["enough"][:-1].any()
    file = tmp_path / "found" / "circuit-tracr-reverse.json"
    again = call("transfer", f"mine={file}", f"twin={file}", "--out", tmp_path / "given", "--json", "--no-verify")
    assert again.code == 0, again.err
    (row,) = again.json["faithfulness"]
    assert row["mine"] == row["twin"] == pytest.approx(found.json["faithfulness"][0]["tracr-reverse"], abs=1e-6)
    assert "faithfulness_own" not in again.json  # two circuits were found for the task, and neither has its name
    taken = call("transfer", file, "--out", tmp_path / "given")
    assert taken.code == 2 and "exists" in taken.err and "loading" not in taken.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "give circuit files, or --model and a --task for each task"),
        (("-m", "tracr:reverse"), "give circuit files, or --model and a --task for each task"),
        (("-m", "tracr:reverse", "-t", "tracr-revers"), "unknown task 'tracr-revers'"),
        (("-m", "tracr:reverse", "-t", "tracr-reverse", "--by", "eapp"), "unknown method 'eapp'"),
        (("-m", "tracr:reverse", "-t", "tracr-reverse", "--sizes", "0.1;1"), "--sizes: expected shares"),
        (("-m", "tracr:reverse", "-t", "tracr-reverse", "--group", "x"), "--group: expected NAME=VALUE"),
        (("-m", "tracr:reverse", "-t", "tracr-reverse", "--ablation", "zerro"), "did you mean 'zero'"),
        (("-m", "tracr:reverse", "-t", "tracr-reverse", "--ablation", "optimal"), "constants of its own"),
    ],
)
def test_refusals_come_before_the_model(options, told, tmp_path):
    ended = call("transfer", *options, "--out", tmp_path / "x")
    assert ended.code == 2 and told in ended.err and "loading" not in ended.err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_circuit_found_by_denoising_is_measured_so(tmp_path):
    few = ("--model", "induction-neox", "--task", "induction", "--train-size", 4, "--no-verify")
    assert call("rank", *few, "--direction", "denoising", "--top", 60, "--out", tmp_path / "r").code == 0
    file = tmp_path / "r" / "circuit.json"
    ended = call("transfer", file, "--out", tmp_path / "t", "--json", "--no-verify")
    assert ended.code == 0 and "induction is measured by denoising, as r was found" in ended.err
    told = call("evaluate", file, "--n-random", 0, "--json", "--no-verify").json["metrics"]["circuit"]
    assert ended.json["kl"][0]["r"] == pytest.approx(told["kl"], rel=1e-5)
    zero = call("transfer", file, "--ablation", "zero", "--out", tmp_path / "z", "--no-verify")
    assert zero.code == 2 and "needs counterfactual ablation" in zero.err


@pytest.mark.slow
def test_prompts_are_made_as_those_that_a_circuit_was_found_with(tmp_path):
    found = ("rank", "-m", "tracr:reverse", "-t", "tracr-reverse", "--top", 30, "--no-verify")
    for length in (2, 3):
        assert call(*found, "--task-option", f"max_length={length}", "--out", tmp_path / str(length)).code == 0
    file = tmp_path / "2" / "circuit.json"  # alone, it is called `circuit`, as a column of the tables is
    ended = call("transfer", file, "--out", tmp_path / "out", "--json", "--no-verify")
    assert ended.code == 0, ended.err
    assert pd.read_csv(tmp_path / "out" / "transfer.csv")["n"].tolist() == [12, 12, 12]  # 3 + 3 · 3 inputs
    both = call("transfer", f"two={file}", f"three={tmp_path / '3' / 'circuit.json'}", "--out", tmp_path / "both")
    assert both.code == 0 and "two and three were found with prompts of tracr-reverse" in " ".join(both.err.split())
