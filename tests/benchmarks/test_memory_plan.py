"""The estimate against what a process takes: the promise of 15 %, or 50 MB, on two shapes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from circuitgraph.forward.engine.choose import SWITCH


@pytest.mark.full
@pytest.mark.parametrize("kernels", ["1", "0"])
@pytest.mark.parametrize("case", ["gpt2-small, 4 x 32", "llama 135M, 4 x 16"])
def test_a_run_takes_what_was_estimated(case: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, kernels)
    command = [sys.executable, "-m", "tests.benchmarks.memory_plan", "--here", "--case", case]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    off = abs(found["total"] - found["peak"])
    assert off <= max(0.15 * found["peak"], 50e6), found
