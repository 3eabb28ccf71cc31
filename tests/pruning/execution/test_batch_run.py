"""How a batch is cut into parts, and what parts add up to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.execution.batch_run import Share
from pruning.methods.edge_pruning.loop import train
from tests.pruning.execution.test_memory_saving import trainer
from tests.pruning.methods.edge_pruning.test_train import LAGRANGIAN


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2().double(), verify=False)


@pytest.mark.parametrize(
    ("micro_batch", "n", "sizes"), [(4, 8, [4, 4]), (4, 5, [4, 1]), (1, 3, [1, 1, 1]), (8, 2, [2])]
)
def test_parts(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch, micro_batch: int, n: int, sizes: list[int]
) -> None:
    runner = trainer(compiled, LAGRANGIAN).runner
    runner.micro_batch = micro_batch
    n_edges = compiled.universe.n_edges
    every = {"gates": torch.ones(n_edges, dtype=torch.float64), "wanted": torch.ones(n_edges, dtype=torch.bool)}
    ran: list[list[int]] = []
    run_part = runner._run_part

    def watched(part: Share, n_prompts: int):
        ran.append(part.prompts.tolist())
        return run_part(part, n_prompts)

    monkeypatch.setattr(runner, "_run_part", watched)
    runner.run([Share(prompts=np.arange(n) % 4, **every)])
    assert [len(part) for part in ran] == sizes
    assert sum(ran, []) == [place % 4 for place in range(n)]


@pytest.mark.parametrize(("one_more", "whole"), [(False, True), (True, False)])
def test_sparse_gates_run_whole(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch, one_more: bool, whole: bool
) -> None:
    runner = trainer(compiled, LAGRANGIAN, micro_batch=2).runner
    n_edges = compiled.universe.n_edges
    gates = torch.zeros(n_edges, dtype=torch.float64)
    gates[: (n_edges - 1) // 30 + one_more] = 1  # the most that are fewer than a thirtieth, and one more
    share = Share(prompts=np.arange(4), gates=gates, wanted=gates != 0)
    ran: list[int] = []
    run_part = runner._run_part

    def watched(part: Share, n_prompts: int):
        ran.append(len(part.prompts))
        return run_part(part, n_prompts)

    monkeypatch.setattr(runner, "_run_part", watched)
    runner.run([share])
    assert ran == ([4] if whole else [2, 2])


def test_with_spans_all_nodes_of_all_spans_are_what_a_batch_was_sized_for(compiled: CompiledModel) -> None:
    """Heads were counted at each span where they ran, and once where the whole model was: no prompt at once."""
    runner = trainer(compiled, LAGRANGIAN, micro_batch=2).runner
    runner.compiled = compiled.with_spans(names := ("start", "name", "end"), asked=names)
    every = torch.ones(runner.compiled.universe.n_edges, dtype=torch.float64)
    assert runner._at_once(Share(prompts=np.arange(4), gates=every, wanted=every != 0)) == 2


@pytest.mark.parametrize(("names", "at_once"), [(["input->m0", "m0->logits"], 4), (["input->m1"], 6), ([], 6)])
def test_more_prompts_run_at_once_where_few_nodes_do(compiled: CompiledModel, names: list[str], at_once: int) -> None:
    """A prompt of 5 tokens, 1 asked of 29: 5 (30 × 12 + 4 × 6 × 4 + 2 × 48 + 168) + 6 × 29 = 3,774 numbers, of which
    5 × 168 are ablation values. 4 nodes, one an MLP, are 5 (48 + 48 + 168) + 174 = 1,494: 2 prompts for 1. None are
    1,014: 3 for 1. An edge that dangles is none."""
    runner = trainer(compiled, LAGRANGIAN, micro_batch=2).runner
    gates = torch.zeros(compiled.universe.n_edges)
    gates[[compiled.universe.edge_index(*name.split("->")) for name in names]] = 1
    share = Share(prompts=np.arange(4), gates=gates, wanted=torch.zeros(len(gates), dtype=torch.bool))
    assert runner._at_once(share) == at_once
    assert runner._at_once(replace(share, wanted=~share.wanted)) == 2, "all of them"
    assert runner._at_once(replace(share, prompts=np.arange(2))) == 2, "no more are there"


@pytest.mark.slow
def test_every_prompt_drawn_is_counted(compiled: CompiledModel) -> None:
    in_parts = trainer(compiled, LAGRANGIAN, micro_batch=1)
    train(in_parts)
    assert in_parts.runner.frozen.drawn.total == 4 * LAGRANGIAN.steps
