"""Trained gates as methods that rank edges: one training, of which every edge's score is its log α.

The same trainer as a run of `discover`, without its folder, its checkpoints and its evaluation: to be compared with
other methods on the same prompts. `nested` ranks for all sparsities, `edge-pruning` for the one that it is trained
for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.errors import TrainingError
from circuitgraph.stopping import Stop, Stopped
from pruning.execution.probe import Probe
from pruning.frozen.constants import begun_at
from pruning.frozen.runs import FrozenRuns
from pruning.methods.answers import ComparesAsTask
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.methods.edge_pruning.scores import scores_of_gates
from pruning.methods.edge_pruning.train import Trainer
from pruning.methods.method import RANKING_ABLATIONS

_CACHE_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class _Trained(ComparesAsTask):
    """What both have in common.

    Attributes:
        steps: Optimiser steps; 0 takes the recipe's.
        prompts: Prompts per step; 0 takes the recipe's.
    """

    steps: int = 0
    prompts: int = 0

    direction = "between"
    estimates = LOG_ALPHA
    ablations = RANKING_ABLATIONS
    cost: ClassVar[str] = "steps masked passes, forward and backward (hundreds of batches of 4 prompts)"

    def recipe(self) -> Recipe:
        """The settings of the training."""
        raise NotImplementedError

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Train gates.

        Args:
            probe: The model and the prompts.
            seed: Of the start, the gates drawn and the order of prompts.

        Returns:
            The log α per edge.

        Raises:
            TrainingError: Training ended early.
            KeyboardInterrupt: It was stopped.
        """
        begun = begun_at(probe.compiled, probe.ablation, probe.constants or probe.pairs)
        frozen = FrozenRuns(
            probe.compiled, probe.pairs, ablation=probe.ablation, ablation_data=begun, budget_bytes=_CACHE_BYTES
        )
        changes = {"steps": self.steps or None, "batch_size": self.prompts or None}
        recipe = self.recipe().changed(**changes)
        assert probe.objective is not None  # `default_objective` gives one
        trainer = Trainer(probe.compiled, frozen, recipe, objective=probe.objective, seed=seed, say=probe.say)
        run = train(trainer, stop=(stop := Stop()))
        if run.interrupted:
            raise Stopped(stop.name)
        if run.stopped_by:
            raise TrainingError(run.stopped_by)
        return scores_of_gates(run.gates, ablation=probe.ablation).values


@dataclass(frozen=True, kw_only=True)
class Nested(_Trained):
    """The recipe `nested`: one ranking for all sparsities (see `pruning.methods.edge_pruning.nested`)."""

    name: ClassVar[str] = "nested"
    summary: ClassVar[str] = "gates trained under budgets drawn anew at every step: one ranking for all sparsities"
    source: ClassVar[str] = "ours, after Arora et al. 2026, Matryoshka attribution"

    def recipe(self) -> Recipe:
        """The settings of the training."""
        return recipe_named("nested")


@dataclass(frozen=True, kw_only=True)
class EdgePruning(_Trained):
    """The recipe `quick` at one sparsity; `discover` has all of its settings.

    Attributes:
        sparsity: The share of edges that the gates are trained to cut.
    """

    sparsity: float = 0.97

    name: ClassVar[str] = "edge-pruning"
    summary: ClassVar[str] = "gates trained at one sparsity, by the recipe quick"
    source: ClassVar[str] = "Bhaskar, Wettig, Friedman, Chen 2024, Finding Transformer Circuits with Edge Pruning"

    def recipe(self) -> Recipe:
        """The settings of the training."""
        return recipe_named("quick").changed(target_sparsity=self.sparsity)
