"""`kill -9` at random moments, and while checkpoints are written: the run goes on and ends with the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def killed(place: Path, kills: int, seed: int, *options: object) -> dict:
    command = [sys.executable, "-m", "tests.pruning.runs.killed_runs", place, kills, seed, *options]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])


OPTIONS = ("--steps", 24, "--set", "n_effects=4")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    told = killed(tmp_path, 4, 0, *OPTIONS, "--set", "checkpoint_every_steps=2")
    assert told["killed"] >= 4 and told["in_writes"] >= 1


@pytest.mark.full
@pytest.mark.parametrize(("seed", "every"), [(1, 1), (2, 7)])
def test_twenty_times(tmp_path: Path, seed: int, every: int) -> None:
    told = killed(tmp_path, 20, seed, *OPTIONS, "--set", f"checkpoint_every_steps={every}")
    assert told["killed"] >= 20 and told["in_writes"] >= 5 and told["went_on"] >= 5
