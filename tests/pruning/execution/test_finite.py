"""Models and trainings that say no numbers end in a sentence that names the prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import NotFiniteError, TrainingError
from pruning.execution.finite import prompts_without_numbers
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from tests.pruning.prompts.small_prompts import random_prompts

QUICK = recipe_named("quick").changed(steps=3, target_sparsity=0.5)
FROM_NOTHING = replace(QUICK, name="from nothing", warm_start="none", init_std=0.1)


def runs_of(compiled: CompiledModel, bad: list[int], **how) -> FrozenRuns:
    """Six prompts, of which some have token 7."""
    pairs = random_prompts(lengths=[4, 3, 4, 3, 4, 3])
    clean = [np.where(ids == 7, 8, ids) for ids in pairs.clean_ids]
    for index in bad:
        clean[index][0] = 7
    corrupted = tuple(np.where(ids == 7, 8, ids) for ids in pairs.corrupted_ids)
    return FrozenRuns(
        compiled, replace(pairs, clean_ids=tuple(clean), corrupted_ids=corrupted), ablation="counterfactual", **how
    )


@pytest.fixture(scope="module")
def broken(tiny_gpt2) -> CompiledModel:
    """A model that says NaN of every prompt with token 7."""
    model = tiny_gpt2(seed=2)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.detach().clone())
        model.transformer.wte.weight[7, 0] = torch.nan
    return compile_model(model, verify=False)


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("budget_bytes", [0, 1 << 30])
def test_prompts_without_numbers_are_found_wherever_their_runs_are(broken, top_k, budget_bytes) -> None:
    runs = runs_of(broken, [4, 1], teacher_top_k=top_k, budget_bytes=budget_bytes)
    assert prompts_without_numbers(runs).tolist() == [1, 4]
    assert prompts_without_numbers(runs_of(broken, [])).tolist() == []


@pytest.mark.parametrize("recipe", [QUICK, FROM_NOTHING], ids=str)
def test_a_start_from_no_numbers_says_on_which_prompts(broken, recipe) -> None:
    runs = runs_of(broken, [0, 1, 2, 3, 4])
    with pytest.raises(
        NotFiniteError, match=r"on 5 of 6 prompts: prompts 0 \('prompt 0'\), .* … .*torch.float32"
    ) as told:
        train(Trainer(broken, runs, recipe, objective="kl", seed=0))
    assert isinstance(told.value, TrainingError) and isinstance(told.value, ValueError)


def test_gradients_that_are_no_numbers_though_the_model_says_some(broken) -> None:
    """Where the corrupted side is broken, the full model is not."""
    runs = runs_of(broken, [])
    corrupted = [ids.copy() for ids in runs.pairs.corrupted_ids]
    for ids in corrupted:
        ids[0] = 7
    runs = FrozenRuns(broken, replace(runs.pairs, corrupted_ids=tuple(corrupted)), ablation="counterfactual")
    with pytest.raises(NotFiniteError, match="gate importances are NaN or infinite.*logits are finite"):
        Trainer(broken, runs, QUICK, objective="kl", seed=0)
