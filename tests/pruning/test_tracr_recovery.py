"""The recipe `tracr` finds the circuits of both compiled programs, edge for edge."""

from __future__ import annotations

import pytest

from circuitgraph.compile import compile_model
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import ground_truth_edges
from pruning.discovery import discover
from pruning.tasks import load_task

SIZES = {"reverse": (11, 94), "xproportion": (5, 32)}


def check_recovery(program: str, *, seed: int) -> None:
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task(f"tracr-{program}", loaded.tokenizer)
    found = discover(compiled, task, "tracr", seed=seed, n_random=0, splits=("test",))
    truth, kept = ground_truth_edges(program), set(found.circuit)
    assert kept == truth, f"missing {sorted(truth - kept)}, too many {sorted(kept - truth)}"
    assert (len(found.circuit), found.circuit.universe.n_edges) == SIZES[program]
    assert found.metrics["splits"]["test"]["circuit"]["exact_match"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", SIZES)
def test_recovery(program: str) -> None:
    check_recovery(program, seed=0)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("program", SIZES)
def test_recovery_for_five_seeds(program: str, seed: int) -> None:
    check_recovery(program, seed=seed)
