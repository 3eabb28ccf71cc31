"""Which edges matter, without training: gradients of the objective in the gates, along the way from 0 to 1.

All gates are set to the same level, at several levels between 0 (every edge ablated) and 1 (the full
model), and the objective's gradient is taken in each: a path through the gates (integrated gradients, Sundararajan et
al. 2017; EAP-IG by Hanna et al. 2024 takes the same path over activations). At level 1 alone the gradient of a KL
vanishes, which is why a path is needed. Under zero ablation a common level merely scales the residual stream, and a
norm takes that out again; so under constant ablations each gate is drawn around the level, by itself.

Two things are made of these gradients. `gate_gradients` is their mean, with its sign. `gate_importance` is the mean of
their *sizes*: an edge that helps some prompts and harms others by as much matters to both, and its gradients cancel in
the first. It ranks edges far better (docs/performance.md, "Sizes, not means"), and is what training starts from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import BatchRunner, Share
from pruning.execution.finite import require_numbers
from pruning.execution.probe import Probe
from pruning.methods.answers import ComparesAsTask
from pruning.methods.method import RANKING_ABLATIONS
from pruning.prompts.batch_order import BatchOrder


@dataclass(frozen=True, kw_only=True)
class GatePath:
    """Where gradients are taken.

    Attributes:
        levels: The gates' common values.
        batches: Batches of prompts at each level.
        batch_size: Prompts a batch.
    """

    levels: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85, 0.95)
    batches: int = 3
    batch_size: int = 8


GATE_PATH = GatePath()


@with_gradients
def gate_gradients(runner: BatchRunner, path: GatePath = GATE_PATH, *, seed: int = 0) -> Float[Tensor, " edge"]:
    """Average gradient of the objective in every edge's gate.

    Args:
        runner: Takes batches of the training data forward and backward; says what is minimised.
        path: Where gradients are taken.
        seed: Of the order of batches.

    Returns:
        Gradients; negative where keeping the edge brings the circuit closer to the full model.
    """
    return torch.stack([gradients.mean(0) for gradients in along_path(runner, path, seed)]).mean(0)


@with_gradients
def gate_importance(runner: BatchRunner, path: GatePath = GATE_PATH, *, seed: int = 0) -> Float[Tensor, " edge"]:
    """How much each edge's gate matters: the size of its gradient in a batch, averaged.

    Each level counts alike, whatever the size of the gradients there.

    Args:
        runner: Takes batches of the training data forward and backward; says what is minimised.
        path: Where gradients are taken.
        seed: Of the order of batches.

    Returns:
        Importances, not negative, with mean 1 (0 where no gate has a gradient).
    """
    total = torch.zeros(runner.compiled.universe.n_edges, device=runner.compiled.device)
    for gradients in along_path(runner, path, seed):
        size = gradients.abs().mean(0)
        total += size / size.mean().clamp(min=torch.finfo(size.dtype).tiny)
    return total / len(path.levels)


def along_path(runner: BatchRunner, path: GatePath, seed: int) -> Iterator[Float[Tensor, "batch edge"]]:
    """The gradients of every batch, level by level.

    Args:
        runner: Takes batches of the training data forward and backward.
        path: Where gradients are taken.
        seed: Of the order of batches.
    """
    frozen = runner.frozen
    generator = torch.Generator().manual_seed(seed)
    order = BatchOrder(frozen.by_length, path.batch_size, np.random.default_rng(seed))
    wanted = torch.ones(runner.compiled.universe.n_edges, dtype=torch.bool)
    for level in path.levels:
        gradients = []
        for _ in range(path.batches):
            gates = torch.full(wanted.shape, level)
            if frozen.ablation != "counterfactual":
                width = min(level, 1 - level)
                gates += width * (2 * torch.rand(gates.shape, generator=generator) - 1)
            gradients += runner.run([Share(prompts=order.next(), gates=gates, wanted=wanted)]).gradients
        yield torch.stack(gradients)


@dataclass(frozen=True, kw_only=True)
class AlongThePath(ComparesAsTask, GatePath):
    """What methods on the path have in common: the path, and that any objective will do."""

    direction = "between"
    ablations = RANKING_ABLATIONS
    cost: ClassVar[str] = "levels × batches masked passes, forward and backward (15 batches of 8 prompts)"
    source: ClassVar[str] = "integrated gradients (Sundararajan et al. 2017) over gates; the levels are ours"


@dataclass(frozen=True, kw_only=True)
class GateGradients(AlongThePath):
    """Mean gradient of the gates along the path, with its sign; the fields are those of `GatePath`."""

    name: ClassVar[str] = "gate-gradients"
    summary: ClassVar[str] = "mean gradient of the gates at several levels between 0 and 1, with its sign"
    estimates = "fall of the objective per unit of the gate, averaged between ablated and full model"

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Of the order of batches.

        Returns:
            Minus the mean gradient per edge.
        """
        return _numbers(-gate_gradients(probe.runner, self, seed=seed), probe)


@dataclass(frozen=True, kw_only=True)
class GateImportance(AlongThePath):
    """Mean size of the gates' gradients along the path; the fields are those of `GatePath`."""

    name: ClassVar[str] = "gate-importance"
    summary: ClassVar[str] = "mean size of the gates' gradients at several levels; what the recipe quick starts from"
    estimates = "size of the objective's gradient in the gate, in units of the mean edge's"

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Of the order of batches.

        Returns:
            Importances per edge, not negative, with mean 1.
        """
        return _numbers(gate_importance(probe.runner, self, seed=seed), probe)


def _numbers(scores: Float[Tensor, " edge"], probe: Probe) -> Float[np.ndarray, " edge"]:
    require_numbers(scores, probe.frozen, "gate gradients")
    return scores.double().cpu().numpy()
