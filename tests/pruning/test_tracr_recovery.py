"""The recipe `tracr` finds the circuits of both compiled programs, edge for edge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from circuitgraph.compile import compile_model
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import ground_truth_edges
from pruning.faithful_keep import keep_faithful
from pruning.gates import Gates
from pruning.tasks import load_task

SIZES = {"reverse": (11, 94), "xproportion": (5, 32)}


def check_recovery(program: str, *, seed: int) -> None:
    command = [sys.executable, "-m", "tests.pruning.recover_tracr", program, str(seed)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    truth, kept = ground_truth_edges(program), set(found["kept"])
    # The ranking is training's own work; the keep rule only draws the line below it.
    assert set(found["ranked"][: len(truth)]) == truth
    assert kept == truth, f"missing {sorted(truth - kept)}, too many {sorted(kept - truth)}"
    assert (len(found["kept"]), found["n_edges"]) == SIZES[program]
    assert found["exact_match"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", SIZES)
def test_recovery(program: str) -> None:
    check_recovery(program, seed=0)


@pytest.mark.parametrize("program", SIZES)
def test_the_keep_rule_does_not_find_it_without_training(program: str) -> None:
    """In the order of untrained gates it takes most of the graph to leave the outputs as they are."""
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    train = load_task(f"tracr-{program}", loaded.tokenizer, options={"max_length": 3}).splits["train"]
    gates = Gates(compiled.gate_map, init_mean=2.0, init_std=0.01, generator=torch.Generator().manual_seed(0))
    edges, _ = keep_faithful(compiled, gates, train, ablation="zero", tolerance=1e-4, minimal=False)
    n_truth, n_edges = SIZES[program]
    assert n_truth * 2 < len(edges) <= n_edges


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("program", SIZES)
def test_recovery_for_five_seeds(program: str, seed: int) -> None:
    check_recovery(program, seed=seed)
