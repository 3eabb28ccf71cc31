"""The gates of a step, as a recipe's control has them: drawn, kept to drawn budgets, or steeper from step to step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.methods.edge_pruning.continuous import opened, sharpness_at
from pruning.methods.edge_pruning.gates import TEMPERATURE, Gates, GateSample
from pruning.methods.edge_pruning.nested import drawn_budgets, keeping
from pruning.methods.edge_pruning.recipe import Recipe


def gates_of_step(
    gates: Gates, recipe: Recipe, step: int, weights: Float[Tensor, " gate"], generator: torch.Generator
) -> list[GateSample]:
    """Gates for each share of a step's batch.

    Args:
        gates: The gates.
        recipe: The settings.
        step: The step, from 0.
        weights: Edges a gate.
        generator: Source of randomness.
    """
    if recipe.control == "continuous":
        return [opened(gates, sharpness_at(step, steps=recipe.steps, sharpness=recipe.sharpen))]
    if recipe.control != "nested":
        return [gates.sample(generator) for _ in range(recipe.draws)]
    budgets = drawn_budgets(
        recipe.draws, sparsest=recipe.end_sparsity, densest=recipe.start_sparsity,
        n_edges=gates.gate_map.universe.n_edges, generator=generator,
    )  # fmt: skip
    temperature = TEMPERATURE / recipe.sharpen ** (step / recipe.steps)
    return [keeping(gates, kept, weights, temperature) for kept in budgets]
