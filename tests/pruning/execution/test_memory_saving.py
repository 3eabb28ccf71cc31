"""Less memory, the same numbers: micro-batches, recomputation, and going on after memory ran out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.execution.batch_run import Share
from pruning.execution.step_settings import StepSettings
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.train import Trainer
from tests.pruning.methods.edge_pruning.test_train import BUDGET, LAGRANGIAN, learnt
from tests.pruning.prompts.small_prompts import random_prompts

pytestmark = pytest.mark.slow

# Of one length, so that batches are full; answers of one and of two tokens, so that prompts weigh the same.
PROMPTS = random_prompts(lengths=[5] * 8, n_asked=(1, 2))


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2().double(), verify=False)


def trainer(compiled: CompiledModel, recipe: Recipe, *, say=lambda line: None, **how) -> Trainer:
    frozen = FrozenRuns(compiled, PROMPTS, ablation="counterfactual")
    recipe = replace(recipe, batch_size=4)
    return Trainer(compiled, frozen, recipe, objective="kl", seed=0, how=StepSettings(**how), say=say)


@pytest.mark.parametrize("recipe", [LAGRANGIAN, BUDGET])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_add_up_to_the_batch(compiled: CompiledModel, recipe: Recipe, micro_batch: int) -> None:
    whole, parts = trainer(compiled, recipe), trainer(compiled, recipe, micro_batch=micro_batch)
    first, again = train(whole), train(parts)
    for a, b in zip(learnt(first), learnt(again), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for a, b in zip(first.records, again.records, strict=True):
        assert a.objective == pytest.approx(b.objective, rel=1e-5)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def test_recomputing_gives_the_same_bits(compiled: CompiledModel) -> None:
    for a, b in zip(
        learnt(train(trainer(compiled, BUDGET))), learnt(train(trainer(compiled, BUDGET, recompute=True))), strict=True
    ):
        assert torch.equal(a, b)


class Cramped:
    """A model whose passes run out of memory beyond some prompts."""

    def __init__(self, compiled: CompiledModel, most: int) -> None:
        self.compiled, self.most = compiled, most

    def __getattr__(self, name: str):
        return getattr(self.compiled, name)

    def masked(self, gates, batch, values, **how):
        if len(batch.input_ids) > self.most:
            raise torch.OutOfMemoryError("out of memory, says the test")
        return self.compiled.masked(gates, batch, values, **how)


def test_a_batch_that_does_not_fit_is_halved_and_goes_on(compiled: CompiledModel) -> None:
    said: list[str] = []
    plenty = trainer(compiled, LAGRANGIAN)
    cramped = trainer(compiled, LAGRANGIAN, say=said.append)
    cramped.runner.compiled = Cramped(compiled, 1)  # type: ignore[assignment]
    first, again = train(plenty), train(cramped)
    assert said == [
        "memory ran out: going on with 2 prompts at once, the same batches",
        "memory ran out: going on with 1 prompts at once, the same batches",
    ]
    assert again.stopped_by == ""
    for a, b in zip(learnt(first), learnt(again), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_one_prompt_that_does_not_fit_has_its_mlps_run_again_and_is_an_error_then(compiled: CompiledModel) -> None:
    said: list[str] = []
    cramped = trainer(compiled, LAGRANGIAN, say=said.append, micro_batch=1)
    cramped.runner.compiled = Cramped(compiled, 0)  # type: ignore[assignment]
    with pytest.raises(torch.OutOfMemoryError):
        train(cramped)
    assert said == ["memory ran out: going on with MLPs run again in the backward pass"]


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (3, ["sparse steps go on with 2 prompts at once, the same batches"]),
        (
            1,
            [
                "sparse steps go on with 2 prompts at once, the same batches",
                "going on with 1 prompts at once, the same batches",
            ],
        ),
    ],
)
def test_a_sparse_step_that_does_not_fit_takes_fewer_than_it_took(
    compiled: CompiledModel, most: int, said: list[str]
) -> None:
    """With no gate open 6 prompts may run at once where 2 may else, so all 4 do; what did not fit are these."""
    told: list[str] = []
    runner = trainer(compiled, LAGRANGIAN, micro_batch=2, say=told.append).runner
    runner.compiled = Cramped(compiled, most)  # type: ignore[assignment]
    nothing = torch.zeros(compiled.universe.n_edges, dtype=torch.float64)
    share = Share(prompts=np.arange(4), gates=nothing, wanted=torch.zeros(len(nothing), dtype=torch.bool))
    ran = runner.run([share])
    assert told == [f"memory ran out: {line}" for line in said]
    assert runner.micro_batch == min(most, 2), "what is not sparse has run with 2"
    torch.testing.assert_close(ran.objective, trainer(compiled, LAGRANGIAN).runner.run([share]).objective)
    assert len(told) == len(said) and runner.run([share]) is not None and len(told) == len(said), "it is remembered"
