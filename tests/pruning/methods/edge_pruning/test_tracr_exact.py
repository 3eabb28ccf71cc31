"""The recipe `tracr-exact` ends with a known circuit of every compiled program, whatever the seed."""

from __future__ import annotations

import pytest

from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import load_ground_truth
from circuitgraph.tracr.programs import program_names
from pruning.runs.discover import discover
from pruning.tasks import load_task

SOME = ("hist", "parity", "sort-unique", "dyck-1")


def check_is_known(program: str, seed: int) -> None:
    """What is kept is the ground truth; in programs with several minimal circuits, one of those that are listed."""
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task(f"tracr-{program}", loaded.tokenizer)
    found = discover(compiled, task, "tracr-exact", seed=seed, n_random=0, splits=())
    truth = load_ground_truth(program)
    kept, known = set(found.circuit), [set(truth.edges), *map(set, truth.alternatives)]
    assert kept in known, f"missing {sorted(known[0] - kept)}, extra {sorted(kept - known[0])}"


@pytest.mark.slow
@pytest.mark.parametrize("program", SOME)
def test_some_programs(program: str) -> None:
    check_is_known(program, seed=0)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("program", program_names())
def test_every_program_with_five_seeds(program: str, seed: int) -> None:
    check_is_known(program, seed)
