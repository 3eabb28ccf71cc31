"""A first guess of which edges matter: gradients of the objective in the gates, along the way from 0 to 1.

All gates are set to the same level, at several levels between 0 (every edge ablated) and 1 (the full
model), and the gradients averaged: integrated gradients over the gates (Sundararajan et al. 2017; EAP-IG by
Hanna et al. 2024 takes the same path over activations). At level 1 alone the gradient of a KL vanishes,
which is why a path is needed. Under zero ablation a common level merely scales the residual stream, and a norm
takes that out again; so under constant ablations each gate is drawn around the level, by itself.

It serves as a warm start for training.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compile import CompiledModel
from pruning.batch_run import BatchRunner, Share
from pruning.frozen_runs import BatchOrder, FrozenRuns
from pruning.objectives import objective_named

LEVELS = (0.3, 0.5, 0.7, 0.85, 0.95)


def gate_gradients(
    compiled: CompiledModel,
    frozen: FrozenRuns,
    *,
    objective: str,
    levels: tuple[float, ...] = LEVELS,
    batches_per_level: int = 3,
    batch_size: int = 8,
    micro_batch: int | None = None,
    seed: int = 0,
) -> Float[Tensor, " edge"]:
    """Average gradient of the objective in every edge's gate.

    Args:
        compiled: The model.
        frozen: The training data with its frozen runs.
        objective: Name of the objective.
        levels: The gates' common values.
        batches_per_level: Batches averaged at each.
        batch_size: Prompts a batch.
        micro_batch: Prompts run at once; by default all of a batch.
        seed: Of the order of batches.

    Returns:
        Gradients; negative where keeping the edge brings the circuit closer to the full model.
    """
    runner = BatchRunner(compiled, frozen, objective_named(objective), micro_batch=micro_batch or batch_size)
    return path_gradients(runner, levels=levels, batches_per_level=batches_per_level, batch_size=batch_size, seed=seed)


def path_gradients(
    runner: BatchRunner,
    *,
    levels: tuple[float, ...] = LEVELS,
    batches_per_level: int = 3,
    batch_size: int,
    seed: int,
) -> Float[Tensor, " edge"]:
    """`gate_gradients` by a runner that is there already.

    Args:
        runner: Takes batches of the training data forward and backward; says what is minimised.
        levels: The gates' common values.
        batches_per_level: Batches averaged at each.
        batch_size: Prompts a batch.
        seed: Of the order of batches.
    """
    compiled, frozen = runner.compiled, runner.frozen
    generator = torch.Generator().manual_seed(seed)
    order = BatchOrder(frozen.by_length, batch_size, np.random.default_rng(seed))
    total = torch.zeros(compiled.universe.n_edges, device=compiled.device)
    wanted = torch.ones_like(total, dtype=torch.bool)
    for level in levels:
        for _ in range(batches_per_level):
            gates = torch.full_like(total, level)
            if frozen.ablation != "counterfactual":
                width = min(level, 1 - level)
                gates += width * (2 * torch.rand(gates.shape, generator=generator).to(gates.device) - 1)
            total += runner.run([Share(prompts=order.next(), gates=gates, wanted=wanted)]).gradients[0]
    return total / (len(levels) * batches_per_level)
