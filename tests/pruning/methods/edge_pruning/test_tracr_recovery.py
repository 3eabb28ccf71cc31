"""The recipe `tracr` finds the circuits of compiled programs, edge for edge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.models import load_model
from circuitgraph.tracr.ground_truth import ground_truth_edges, load_ground_truth
from circuitgraph.tracr.programs import program_names
from pruning.methods.edge_pruning.gates import Gates
from pruning.selection.faithful import keep_faithful
from pruning.tasks import load_task

SIZES = {"reverse": (11, 94), "xproportion": (5, 32)}
OTHERS = [name for name in program_names() if name not in SIZES and load_ground_truth(name).unique]


def problem_with(program: str, *, seed: int) -> str | None:
    """What is wrong with what a seed finds; None where it is the ground truth, and no more."""
    command = [sys.executable, "-m", "tests.pruning.methods.edge_pruning.recover_tracr", program, str(seed)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[4], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    truth, kept = ground_truth_edges(program), set(found["kept"])
    assert found["n_edges"] == load_ground_truth(program).n_edges
    # The ranking is training's own work; the keep rule only draws the line below it.
    if set(found["ranked"][: len(truth)]) != truth:
        return f"seed {seed}: ranked first {sorted(set(found['ranked'][: len(truth)]) - truth)}"
    if kept != truth or len(found["kept"]) != len(truth) or found["exact_match"] != 1:
        return f"seed {seed}: missing {sorted(truth - kept)}, too many {sorted(kept - truth)}"
    return None


def most_recover(program: str, seeds: range, *, at_least: int) -> None:
    """Training is chaotic, and on another processor, which rounds otherwise, another seed may fail (see the docs)."""
    problems, right = [], 0
    for seed in seeds:
        problem = problem_with(program, seed=seed)
        right += problem is None
        problems += [] if problem is None else [problem]
        if right == at_least:
            return
    raise AssertionError(f"{right} of {len(seeds)} seeds recover {program}: {problems}")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["reverse"])  # the other one, with five seeds, in `make test-full`
def test_recovery(program: str) -> None:
    """One seed, since one takes minutes; five are tried in `make test-full`."""
    most_recover(program, range(1, 3), at_least=1)  # seed 0 of reverse fails on one processor, see the docs


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


@pytest.mark.parametrize(
    "program",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("first-token", "hist")),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("length", "maximum", "sort")),
    ],
)
def test_keep_minimal_finds_it_whatever_the_order(program: str) -> None:
    """No training: where the true edges are the only set that is enough, cutting ends there from any order of gates."""
    compiled = compile_model(load_model(f"tracr:{program}"), embeddings="split", verify=False)
    train = load_task(f"tracr-{program}", compiled.tokenizer).splits["train"]
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        gates = Gates(compiled.gate_map, init_mean=2.0, init_std=1.0, generator=generator)
        edges, _ = keep_faithful(compiled, gates, train, ablation="zero", tolerance=1e-4, minimal=True)
        assert {compiled.universe.edge_name(int(edge)) for edge in edges} == ground_truth_edges(program)


@pytest.mark.full
@pytest.mark.parametrize("program", SIZES)
def test_recovery_for_five_seeds(program: str) -> None:
    most_recover(program, range(5), at_least=4)


@pytest.mark.full
@pytest.mark.parametrize("program", OTHERS)
def test_recovery_of_the_other_programs(program: str) -> None:
    most_recover(program, range(5), at_least=4)
