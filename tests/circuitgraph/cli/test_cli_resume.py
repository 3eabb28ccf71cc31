"""`discover --resume` and `--time-limit`: a run that was ended goes on, and says how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pruning.runs.settings import RunSettings
from tests.circuitgraph.cli.conftest import call
from tests.circuitgraph.cli.test_cli_discover import FILES
from tests.circuitgraph.cli.test_results_are_safe import SMALL, before, files, missing, state
from tests.pruning.runs.killed_runs import bits

pytestmark = pytest.mark.slow

STEP = "pruning.methods.edge_pruning.train.rate_at"


def test_a_run_that_a_signal_ended_says_how_to_go_on_and_does(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        before(patched, STEP, at=6)
        ended = call(*SMALL, "--out", tmp_path / "x", "--json")
    go_on = f"circuitgraph discover --resume {tmp_path / 'x'}"
    assert (
        ended.code == 143
        and f"after 5 of 10 steps: what was learnt by then is in {tmp_path / 'x'}; `{go_on}`" in ended.err
    )
    assert ended.json["resume"] == state(tmp_path / "x")["resume"] == go_on
    first = state(tmp_path / "x")["command"]

    again = call("discover", "--resume", tmp_path / "x", "--json")
    assert again.code == 0, again.err
    assert "going on after step 5 of 10" in again.err and again.json["steps_taken"] == 10
    assert again.json["resume"] is None and files(tmp_path / "x") == FILES and files(tmp_path) == {"x"}
    assert state(tmp_path / "x")["command"] == first
    whole = call(*SMALL, "--out", tmp_path / "whole")
    assert whole.code == 0 and bits(tmp_path / "x") == bits(tmp_path / "whole")


def test_checkpoints_outlive_a_report_of_what_was_learnt(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        before(patched, STEP, at=6)
        call(*SMALL, "--out", tmp_path / "x")
    assert call("report", tmp_path / "x").code == 0 and missing(tmp_path / "x") == set()
    assert state(tmp_path / "x")["resume"] and (tmp_path / "x" / "checkpoint").is_dir()
    again = call("discover", "--resume", tmp_path / "x")
    assert again.code == 0 and files(tmp_path / "x") == FILES


def test_time_that_is_up_ends_a_run_cleanly(tmp_path, monkeypatch):
    from pruning.methods.edge_pruning.train import Trainer

    step = Trainer.step

    def slow(self, index):
        import time

        time.sleep(1.0)
        return step(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", slow)
        ended = call(*SMALL, "--steps", 30, "--out", tmp_path / "x", "--time-limit", "15s")
    assert ended.code == 0, ended.err
    assert "The time limit was reached after" in ended.err
    assert f"`circuitgraph discover --resume {tmp_path / 'x'} --time-limit 15s` goes on" in ended.err
    assert state(tmp_path / "x")["stopped_by"] == "the time limit"
    assert "left out: the run was ended by the time limit" in json.dumps(state(tmp_path / "x"))
    again = call("discover", "--resume", tmp_path / "x", "--set", "checkpoint_every_steps=50")
    assert again.code == 0 and files(tmp_path / "x") == FILES, again.err


def test_a_time_limit_before_the_first_step_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(RunSettings, "working_seconds", property(lambda settings: 0.01))
    ended = call(*SMALL, "--out", tmp_path / "x", "--time-limit", "1s")
    assert ended.code == 1 and "Interrupted by the time limit; nothing was written." in ended.err
    assert list(tmp_path.iterdir()) == []


def test_ended_at_once_on_the_way_it_says_what_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        before(patched, STEP, at=6)
        call(*SMALL, "--out", tmp_path / "x")
    kept = {path.name for path in (tmp_path / "x" / "checkpoint").iterdir()}
    with monkeypatch.context() as patched:
        before(patched, "pruning.runs.trained_run.FrozenRuns", signals=2)
        ended = call("discover", "--resume", tmp_path / "x")
    assert ended.code == 143
    assert f"`circuitgraph discover --resume {tmp_path / 'x'}` goes on from its last checkpoint" in ended.err
    assert {path.name for path in (tmp_path / "x" / "checkpoint").iterdir()} == kept


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--resume", "not/there"), "not/there has no run to go on with: expected the folder"),
        ((), "where to? Give --out FOLDER, or --resume FOLDER"),
        (("--out", "x", "--time-limit", "soon"), "time_limit_seconds must be"),
        (("--out", "x", "--time-limit", "0s"), "time_limit_seconds must be"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call(*SMALL[:5], *options)
    assert ended.code == 2 and said in ended.err
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        before(patched, STEP, at=6)
        call(*SMALL, "--out", tmp_path / "x")
    for options, said in (
        (("--seed", 1), "is of another run: seed is 0 there and 1 here"),
        (("--steps", 11), "is of another run: recipe.steps is 10 there and 11 here"),
        (("--overwrite",), "leave out --out, --overwrite and --like"),
        (("--out", tmp_path / "y"), "leave out --out, --overwrite and --like"),
    ):
        ended = call("discover", "--resume", tmp_path / "x", *options)
        assert ended.code == 2 and said in ended.err, ended.err
    plain = call(*SMALL, "--out", tmp_path / "x")
    assert plain.code == 2 and f"`circuitgraph discover --resume {tmp_path / 'x'}` (resume=True) goes on" in plain.err
    assert Path(tmp_path / "x" / "checkpoint").is_dir()
