"""Recipes: named, complete settings of a run. The published ones are as published; `quick` is ours."""

from __future__ import annotations

from circuitgraph.errors import UnknownNameError
from pruning.methods.edge_pruning.recipe import OBJECTIVE_NAMES, OWN_WARM_STARTS, Recipe

__all__ = ["OBJECTIVE_NAMES", "OWN_WARM_STARTS", "RECIPES", "Recipe", "recipe_named"]

_ALL = [
    Recipe(
        name="quick",
        summary="Ours, for a laptop: a start from gate importance, then the sparsity held exactly at its schedule.",
        steps=400,
        ramp_steps=250,
        warmup_steps=5,
        ramp="logarithmic",
        learning_rate=0.08,
        target_sparsity=0.97,
        control="budget",
        sharpen=5.0,
        start_sparsity=0.9,
        warm_start="gate-importance",
        init_mean=0.0,
        init_std=6.0,
        batch_size=4,
        keep="target",
    ),
    Recipe(
        name="nested",
        summary="Ours: one run ranks the edges for all sparsities between 87 and 99.7 %.",
        steps=1000,
        ramp_steps=0,
        warmup_steps=6,
        learning_rate=0.067,
        target_sparsity=0.97,
        control="nested",
        sharpen=5.0,
        start_sparsity=0.87,
        end_sparsity=0.997,
        warm_start="gate-importance",
        init_mean=0.0,
        init_std=2.67,
        batch_size=4,
        draws=2,
        keep="target",
    ),
    Recipe(
        name="tracr",
        summary="Ours, for compiled programs: so little pressure that only edges that change nothing give way.",
        steps=2000,
        ramp_steps=1500,
        warmup_steps=50,
        learning_rate=0.05,
        multiplier_rate=2e-4,
        target_sparsity=1.0,
        init_mean=2.0,
        init_std=0.01,
        batch_size=32,
        draws=2,
        settle_steps=500,
        balance_lengths=True,
        keep="faithful",
        ablation="zero",
        embeddings="split",
    ),
    Recipe(
        name="tracr-exact",
        summary="Ours, for compiled programs: gate importance, a short training, then every edge cut that can be.",
        steps=100,
        ramp_steps=75,
        warmup_steps=5,
        learning_rate=0.03,
        multiplier_rate=1e-4,
        target_sparsity=1.0,
        warm_start="gate-importance",
        init_mean=3.0,
        init_std=1.5,
        batch_size=32,
        draws=2,
        settle_steps=25,
        balance_lengths=True,
        keep="minimal",
        ablation="zero",
        embeddings="split",
    ),
    Recipe(
        name="continuous",
        summary="Deterministic gates that grow steeper under a price per edge, for compiled programs.",
        steps=600,
        ramp_steps=0,
        warmup_steps=10,
        learning_rate=0.02,
        target_sparsity=0.9,
        control="continuous",
        sharpen=200.0,
        price=1e-3,
        init_mean=3.0,
        init_std=0.01,
        batch_size=32,
        balance_lengths=True,
        keep="faithful",
        ablation="zero",
        embeddings="split",
    ),
    Recipe(
        name="paper-gpt2",
        summary="GPT-2 small on IOI, greater-than and gendered pronouns, as released.",
        steps=3000,
        ramp_steps=2500,
        warmup_steps=200,
        learning_rate=0.8,
        multiplier_rate=0.8,
        weight_decay=0.01,
        target_sparsity=0.98,
        batch_size=32,
        embeddings="split",
    ),
    Recipe(
        name="paper-tracr-reverse",
        summary="The Tracr program `reverse`, as released.",
        steps=6000,
        ramp_steps=5900,
        warmup_steps=1500,
        learning_rate=0.03,
        multiplier_rate=0.001,
        weight_decay=0.01,
        target_sparsity=1.02,
        batch_size=16,
        ablation="zero",
        embeddings="split",
    ),
    Recipe(
        name="paper-tracr-xproportion",
        summary="The Tracr program `xproportion`, as released.",
        steps=720,
        ramp_steps=640,
        warmup_steps=96,
        learning_rate=1.0,
        multiplier_rate=1e-4,
        weight_decay=0.01,
        target_sparsity=0.92,
        writer_gates=True,
        writer_target=0.4,
        batch_size=16,
        ablation="zero",
        objective="position-kl",
        embeddings="split",
    ),
    Recipe(
        name="paper-codellama",
        summary="CodeLlama-13B-Instruct on Boolean expressions, as released (it took 32 GPUs).",
        steps=6000,
        ramp_steps=5500,
        warmup_steps=200,
        learning_rate=0.8,
        multiplier_rate=0.4,
        weight_decay=0.01,
        target_sparsity=1.2,
        batch_size=32,
    ),
]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def recipe_named(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        UnknownNameError: No such recipe.

    Examples:
        >>> recipe = recipe_named("quick").changed(steps=100)
        >>> recipe.steps, recipe.target_sparsity
        (100, 0.97)
    """
    if name not in RECIPES:
        raise UnknownNameError.of("recipe", name, RECIPES)
    return RECIPES[name]
