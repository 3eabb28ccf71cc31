"""`discover --seeds`: from one command to a folder with every seed, tables and a report; gone on with by its name."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from pruning.runs.sweep_folder import SweepFolder
from tests.circuitgraph.cli.conftest import call

ASKED = (
    "discover", "--model", "tracr:reverse", "--task", "tracr-reverse", "--task-option", "max_length=2", "--steps", 3,
    "--target-sparsity", "0.5,0.8", "--set", "start_sparsity=0.3", "--set", "n_effects=0", "--n-random", 0,
)  # fmt: skip


@pytest.mark.slow
def test_a_folder_that_goes_on_by_its_name(tmp_path) -> None:
    out = tmp_path / "x"
    ended = call(*ASKED, "--seeds", "1,0", "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert "trainings: 2 (2 seeds, each ranking cut at sparsities 0.5, 0.8)" in ended.err.replace("\n", " ")
    assert "training 2 of 2: seed 0" in ended.err
    assert ended.json["seeds"] == [1, 0] and ended.json["identity"]["task.seed"] == 1
    assert [row["which"] for row in ended.json["front"]] == ["seed"] * 4 + ["consensus"] * 2 + ["averaged"] * 2
    assert {row["measure"] for row in ended.json["stability"]} == {"mean_pairwise_iou", "chance_corrected"}
    names = {path.name for path in out.iterdir()}
    assert all(SweepFolder.CONTENTS.fullmatch(name) for name in names)
    assert names >= {"report.md", "front.png", "summary.csv", "stability.csv", "seed-0", "seed-1", "sweep.json"}
    state = json.loads((out / "seed-0" / "state.json").read_text())
    assert state["finished"] and "--seeds 1,0" in state["command"] and (out / "seed-0" / "report.md").exists()
    seeds = pd.read_csv(out / "front.csv").query("which == 'seed' and sparsity == 0.8")
    row = pd.read_csv(out / "summary.csv").query("which == 'seed' and sparsity == 0.8 and measure == 'n_edges'").iloc[0]
    assert (row["mean"], row["min"], row["n"]) == (seeds["n_edges"].mean(), seeds["n_edges"].min(), 2)

    again = call("discover", "--resume", out)
    assert again.code == 0, again.err
    assert "2 of 2 trainings are there already" in again.err and "training 1 of 2" not in again.err
    assert "averaged scores" in again.out and "how much seeds agree" in again.out
    other = call(*ASKED, "--seeds", "1,0", "--out", out, "--steps", 4)
    assert other.code == 2 and "recipe.steps is 3 there and 4 here" in other.err


@pytest.mark.slow
def test_the_dry_run_says_how_many_trainings(tmp_path) -> None:
    ended = call(*ASKED, "--recipe", "quick", "--seeds", "0,1,2", "--out", tmp_path / "x", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["n_trainings"], ended.json["ranks_for_all"]) == (6, False) and ended.json["seconds"] > 0
    assert "3 seeds × 2 sparsities (0.5, 0.8)" in ended.err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "0,0"), "each seed once"),
        (("--seeds", ""), "expected numbers from 0"),
        (("--seeds=-1",), "expected numbers from 0"),
        (("--seeds", "0,1", "--seed", "2"), "leave out --seed"),
        (("--seeds", "0,1", "--set", "seed=2"), "leave out --seed"),
    ],
)
def test_what_are_no_seeds(options, words, tmp_path) -> None:
    ended = call(*ASKED, *options, "--out", tmp_path / "x")
    assert ended.code == 2 and words in ended.err


def test_where_to(tmp_path) -> None:
    assert "where to?" in call(*ASKED, "--seeds", "0,1").err
    (tmp_path / "one").mkdir()
    ended = call("discover", "--resume", tmp_path / "one", "--seeds", "0,1")
    assert ended.code == 2 and "holds a single run and not several seeds" in ended.err
