"""The published settings as published, and settings that make no sense refused."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.execution.objectives import OBJECTIVES
from pruning.methods.edge_pruning.recipes import RECIPES, Recipe, recipe_named

# Read off the table of the released runs (README of the released code and the paper's appendix):
# steps, ramp, warm-up, lr of α, lr of λ, target, batch.
PUBLISHED = {
    "paper-gpt2": (3000, 2500, 200, 0.8, 0.8, 0.98, 32),
    "paper-tracr-reverse": (6000, 5900, 1500, 0.03, 0.001, 1.02, 16),
    "paper-tracr-xproportion": (720, 640, 96, 1.0, 1e-4, 0.92, 16),
    "paper-codellama": (6000, 5500, 200, 0.8, 0.4, 1.2, 32),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str) -> None:
    recipe = recipe_named(name)
    assert (
        recipe.steps, recipe.ramp_steps, recipe.warmup_steps, recipe.learning_rate, recipe.multiplier_rate,
        recipe.target_sparsity, recipe.batch_size,
    ) == PUBLISHED[name]  # fmt: skip
    # Shared by all: α ~ N(10, 0.01), t linear from 0, multipliers, the published rule at the end.
    assert (recipe.init_mean, recipe.init_std, recipe.start_sparsity) == (10.0, 0.01, 0.0)
    assert (recipe.ramp, recipe.control, recipe.keep, recipe.warm_start) == ("linear", "lagrangian", "paper", "none")
    tracr = "tracr" in name
    assert (recipe.ablation or "counterfactual") == ("zero" if tracr else "counterfactual")
    # Writer gates are off except for xproportion.
    assert recipe.writer_gates == (name == "paper-tracr-xproportion")


def test_what_only_some_published_runs_have() -> None:
    assert recipe_named("paper-tracr-xproportion").writer_target == 0.4
    assert recipe_named("paper-tracr-xproportion").objective == "position-kl"
    for name in ("paper-gpt2", "paper-tracr-reverse", "paper-tracr-xproportion"):
        assert recipe_named(name).embeddings == "split", "two prunable embedding writers"
    assert 0.94 <= recipe_named("paper-gpt2").target_sparsity <= 1.1, "within the published sweep"


def test_names_and_summaries() -> None:
    assert {"quick", "tracr", *PUBLISHED} <= set(RECIPES)
    assert all(recipe.name == name and recipe.summary for name, recipe in RECIPES.items())
    with pytest.raises(UnknownNameError, match="did you mean 'paper-gpt2'"):
        recipe_named("paper-gpt-2")


def test_every_objective_can_be_named_by_a_recipe() -> None:
    for objective in OBJECTIVES:
        assert LAGRANGIAN.changed(objective=objective).objective == objective


def test_recipes_survive_json() -> None:
    for recipe in RECIPES.values():
        assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_recipes_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe_named("quick").steps = 3  # type: ignore[misc]


LAGRANGIAN = Recipe(name="a", steps=100, ramp_steps=80, warmup_steps=10, learning_rate=0.1,
                    target_sparsity=0.9, batch_size=4)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": -5}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"target_sparsity": 0.0}, r"\(0, 2\]"),
        ({"target_sparsity": -0.1}, r"\(0, 2\]"),
        ({"target_sparsity": 2.01}, r"\(0, 2\]"),
        ({"target_sparsity": 97}, r"\(0, 2\]; got 97; did you mean 0.97\?"),
        ({"target_sparsity": math.nan}, r"\(0, 2\]"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"start_sparsity": 1.0}, "start_sparsity"),
        ({"ramp_steps": -1}, "ramp_steps"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"settle_steps": -1}, "settle_steps"),
        ({"settle_steps": 1, "control": "budget"}, "settle_steps"),
        ({"draws": 0}, "draws"),
        ({"draws": 5}, "draws"),
        ({"writer_gates": True, "writer_target": -0.1}, "writer_target"),
        ({"damping": 0}, "damping must be positive"),
        ({"warm_start_batches": 0}, "warm_start_batches must be at least 1"),
        ({"start_sparsity": -0.1}, "start_sparsity"),
        ({"control": "budget", "target_sparsity": 1.0}, "below 1"),
        ({"control": "budget", "writer_gates": True}, "writer"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        dataclasses.replace(LAGRANGIAN, **changes)
    with pytest.raises(ConfigurationError, match=said):
        LAGRANGIAN.changed(**changes)


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({"control": "lagrange"}, "lagrangian"),
        ({"keep": "papers"}, "paper"),
        ({"warm_start": "gate-import"}, "gate-importance"),
        ({"ramp": "logarithm"}, "logarithmic"),
        ({"objective": "kll"}, "kl"),
        ({"ablation": "zeros"}, "zero"),
        ({"embeddings": "splitt"}, "split"),
        ({"kv_heads": "per-query"}, "per_query"),
        ({"qkv": "joints"}, "joint"),
    ],
)
def test_names_that_do_not_exist(changes: dict[str, object], meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{meant}'"):
        LAGRANGIAN.changed(**changes)


def test_targets_up_to_two_are_fine() -> None:
    assert LAGRANGIAN.changed(target_sparsity=2.0).target_sparsity == 2
    assert LAGRANGIAN.changed(target_sparsity=0.001).target_sparsity == 0.001


def test_changing_the_steps_scales_the_schedule() -> None:
    half = LAGRANGIAN.changed(steps=50)
    assert (half.steps, half.ramp_steps, half.warmup_steps, half.settle_steps) == (50, 40, 5, 0)
    assert recipe_named("tracr").changed(steps=200).settle_steps == 50
    paper = recipe_named("paper-gpt2").changed(steps=300)
    assert (paper.ramp_steps, paper.warmup_steps) == (250, 20)
    own = LAGRANGIAN.changed(steps=50, ramp_steps=45)
    assert (own.ramp_steps, own.warmup_steps) == (45, 5)
    assert LAGRANGIAN.changed(steps=100) == LAGRANGIAN
    assert LAGRANGIAN.changed(steps=1).steps == 1


def test_changes_leave_the_rest_and_the_original_alone() -> None:
    changed = LAGRANGIAN.changed(target_sparsity=0.8, batch_size=None)
    assert changed == dataclasses.replace(LAGRANGIAN, target_sparsity=0.8)
    assert LAGRANGIAN.target_sparsity == 0.9


def test_changing_a_setting_that_does_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="target_sparsity"):
        LAGRANGIAN.changed(target_sparsty=0.8)
