"""`circuitgraph components`: its files, its JSON, and what it refuses before a model is loaded."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.constants import load_constants
from circuitgraph.models import load_model
from tests.circuitgraph.cli.conftest import call

SMALL = ("components", "--model", "induction-neox", "--task", "induction", "--no-verify")
FEW = ("--train-prompts", 6, "--test-prompts", 4, "--steps", 3, "--starts", 1)


def test_files_json_and_table(tmp_path: Path) -> None:
    out = tmp_path / "found"
    ended = call(*SMALL, *FEW, "--layers", "1", "--lens", "0", "--lens-steps", 2, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in out.iterdir()) == [
        "components.json", "constants.safetensors", "lens.csv", "test.csv", "train.csv",
    ]  # fmt: skip
    whole = json.loads((out / "components.json").read_text())
    rows = list(csv.DictReader(io.StringIO((out / "train.csv").read_text())))
    assert [row["writer"] for row in rows] == ["a1.h0", "a1.h1", "a1.h2", "a1.h3", "m1"]
    assert [float(row["optimal"]) for row in rows] == pytest.approx([row["optimal"] for row in whole["train"]])
    assert ended.json["train"] == whole["train"] and (whole["n_train"], whole["n_test"]) == (6, 4)
    assert {row["ablation"] for row in whole["train_summary"]} == {"zero", "mean", "resample", "counterfactual"}
    assert whole["lens"][0]["layer"] == 0 and whole["lens"][0]["n_heads_cut"] == 4
    compiled = compile_model(load_model("induction-neox"), verify=False)
    assert load_constants(compiled, out / "constants.safetensors").ablation == "optimal"
    assert "exists" in call(*SMALL, *FEW, "--out", out).err


def test_refused(tmp_path: Path) -> None:
    for option, value in (("--layers", "1-2"), ("--layers", "x"), ("--lens", "0,5"), ("--lens", "a")):
        told = call(*SMALL, option, value, "--out", tmp_path / "a")
        assert told.code == 2 and option in told.err and "loading" not in told.err
    assert call(*SMALL, *FEW, "--rate", 0, "--layers", "1", "--out", tmp_path / "a").code == 2
    none = ("--train-prompts", 6, "--test-prompts", 0, "--lens", "0")
    told = call(*SMALL, *none, "--layers", "1", "--out", tmp_path / "a")
    assert told.code == 2 and "got 6 and 0" in told.err and "a constant for" not in told.err  # before any is learnt
    assert call(*SMALL, *FEW, "--rate", "inf", "--layers", "1", "--out", tmp_path / "a").code == 2
    assert not (tmp_path / "a").exists()
