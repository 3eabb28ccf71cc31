"""Training gates: the loop at the heart of Edge Pruning.

A step, in order:

1. the schedule says which sparsity is asked for;
2. gates are drawn from the hard-concrete distribution;
3. the masked model runs on a batch; the objective compares it with the full model;
4. the gates' α descend along the objective plus `λ₁(s − t) + λ₂(s − t)²`, and the multipliers λ ascend
   (control `lagrangian`, Bhaskar et al. 2024), or the α move along the surface of the budget (control
   `budget`, see `pruning.budget`);
5. the step is recorded, and checked for NaN.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitgraph.compile import CompiledModel
from circuitgraph.errors import TrainingError
from pruning.attribution import gate_gradients
from pruning.budget import ExpectedGate, project_gradient, shift_for_budget
from pruning.frozen_runs import BatchOrder, FrozenRuns
from pruning.gates import Gates
from pruning.objectives import objective_named
from pruning.recipes import Recipe
from pruning.schedule import rate_at, target_at


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step, as a row of the curve.

    Attributes:
        step: From 0.
        seconds: Since training began.
        loss: What was minimised.
        objective: Its part from the task, such as the KL in nats.
        sparsity: Of the gates drawn.
        target: The sparsity asked for.
        lambda1: First multiplier.
        lambda2: Second multiplier.
        live_heads: Heads that ran.
        live_mlps: MLPs that ran.
        undecided: Gates strictly between 0 and 1.
    """

    step: int
    seconds: float
    loss: float
    objective: float
    sparsity: float
    target: float
    lambda1: float
    lambda2: float
    live_heads: int
    live_mlps: int
    undecided: int


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What training gives back.

    Attributes:
        gates: The trained gates.
        records: A row a step.
        interrupted: Whether it was stopped early by the user.
        stopped_by: Why it stopped early, or an empty text.
    """

    gates: Gates
    records: tuple[StepRecord, ...]
    interrupted: bool
    stopped_by: str


class Trainer:
    """Everything that a step needs; one instance a run.

    Args:
        compiled: The model, with the map from edges to gates.
        frozen: The training data with its frozen runs.
        recipe: The settings.
        objective: Name of the objective.
        seed: Seeds the start, the gates drawn and the order of batches.
    """

    def __init__(
        self, compiled: CompiledModel, frozen: FrozenRuns, recipe: Recipe, *, objective: str, seed: int
    ) -> None:
        self.compiled, self.frozen, self.recipe = compiled, frozen, recipe
        self.objective = objective_named(objective)
        self.generator = torch.Generator().manual_seed(seed)
        self.gates = Gates(
            compiled.gate_map, init_mean=recipe.init_mean, init_std=recipe.init_std, writers=recipe.writer_gates,
            generator=self.generator, device=compiled.device,
        )  # fmt: skip
        self.order = BatchOrder(
            frozen.by_length, recipe.batch_size, np.random.default_rng(seed), balance=recipe.balance_lengths
        )
        self.optimiser = torch.optim.AdamW(
            self.gates.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.multipliers = torch.zeros(4 if recipe.writer_gates else 2, requires_grad=True)
        self.ascent = torch.optim.AdamW(
            [self.multipliers], lr=recipe.multiplier_rate, weight_decay=recipe.weight_decay, maximize=True
        )
        gate_map = compiled.gate_map
        self._weights = torch.tensor(gate_map.edges_per_parameter, dtype=torch.float32).to(compiled.device)
        self._expected = ExpectedGate(compiled.device)
        if recipe.warm_start == "gate-gradients":
            self._warm_start(objective, seed)
        self.began = time.perf_counter()

    def _warm_start(self, objective: str, seed: int) -> None:
        gradients = gate_gradients(
            self.compiled, self.frozen, objective=objective, batch_size=self.recipe.batch_size, seed=seed
        )
        self.gates.start_from(gradients.abs(), mean=self.recipe.init_mean, spread=self.recipe.init_std)

    def step(self, index: int) -> StepRecord:
        """Take one step.

        Args:
            index: The step, from 0.

        Returns:
            Its record.

        Raises:
            TrainingError: The loss or a gradient is not finite.
        """
        recipe = self.recipe
        target = target_at(
            index, target=recipe.target_sparsity, ramp_steps=recipe.ramp_steps, ramp=recipe.ramp,
            start=min(recipe.start_sparsity, recipe.target_sparsity),
        )  # fmt: skip
        rate = rate_at(index, steps=recipe.steps, warmup_steps=recipe.warmup_steps)
        for optimiser, base in (
            (self.optimiser, recipe.learning_rate),
            (self.ascent, recipe.multiplier_rate),
        ):
            for group in optimiser.param_groups:
                group["lr"] = base * rate
        if recipe.control == "budget":
            self._sharpen(index)
            self._hold_budget(target)
        sample = self.gates.sample(self.generator)
        batch = self.frozen.batch(self.order.next())
        ran = self.compiled.masked(
            sample.edges, batch.pairs.clean, batch.values, ablation=self.frozen.ablation, wanted=sample.wanted
        )
        objective = self.objective(ran.logits, batch.teacher, batch.pairs)
        loss = objective
        if recipe.control == "lagrangian":
            loss = objective + self._penalty(sample.sparsity, target, self.multipliers[:2])
            if sample.writer_sparsity is not None:
                goal = target_at(
                    index, target=recipe.writer_target, ramp_steps=recipe.ramp_steps, ramp=recipe.ramp
                )
                loss = loss + self._penalty(sample.writer_sparsity, goal, self.multipliers[2:])
        self.optimiser.zero_grad()
        self.ascent.zero_grad()
        loss.backward()
        self._check_finite(index, loss)
        if recipe.control == "budget":
            weights = self._weights
            gradient = self.gates.log_alpha.grad
            assert gradient is not None
            gradient.copy_(project_gradient(gradient, self.gates.log_alpha, weights, self._expected))
        self.optimiser.step()
        if recipe.control == "lagrangian":
            self.ascent.step()
        lambdas = self.multipliers.detach().tolist()
        return StepRecord(
            step=index,
            seconds=time.perf_counter() - self.began,
            loss=float(loss.detach()),
            objective=float(objective.detach()),
            sparsity=float(sample.sparsity.detach()),
            target=target,
            lambda1=lambdas[0],
            lambda2=lambdas[1],
            live_heads=ran.live_heads,
            live_mlps=ran.live_mlps,
            undecided=sample.undecided,
        )

    def _sharpen(self, index: int) -> None:
        """Stretch α away from the threshold, a little at every step after the ramp."""
        recipe = self.recipe
        if recipe.sharpen > 1 and index >= recipe.ramp_steps:
            with torch.no_grad():
                self.gates.log_alpha *= recipe.sharpen ** (1 / max(1, recipe.steps - recipe.ramp_steps))

    def _hold_budget(self, target: float) -> None:
        gate_map = self.compiled.gate_map
        kept = (1 - target) * self.compiled.universe.n_edges - gate_map.n_frozen
        with torch.no_grad():
            log_alpha = self.gates.log_alpha
            log_alpha -= shift_for_budget(log_alpha, self._weights, kept, self._expected)

    def _penalty(self, sparsity: Tensor, target: float, multipliers: Tensor) -> Tensor:
        gap = sparsity - target
        multipliers = multipliers.to(gap.device)
        return multipliers[0] * gap + multipliers[1] * gap * gap

    def _check_finite(self, index: int, loss: Tensor) -> None:
        gradients = [p.grad for p in self.gates.parameters if p.grad is not None]
        if math.isfinite(float(loss.detach())) and all(bool(torch.isfinite(g).all()) for g in gradients):
            return
        raise TrainingError(
            f"step {index}: the loss or its gradient is not finite (loss {float(loss.detach())}); the state before "
            "this step was kept. Try --dtype float32, or a lower learning rate."
        )


Watch = Callable[[StepRecord], None]


def train(trainer: Trainer, watch: Watch | None = None) -> TrainingRun:
    """Run all steps.

    Args:
        trainer: A fresh trainer.
        watch: Called after every step, e.g. by a progress bar.

    Returns:
        The trained gates and the curve. Ctrl-C and a NaN stop it early and keep the last good state.
    """
    records: list[StepRecord] = []
    stopped_by = ""
    interrupted = False
    try:
        for index in range(trainer.recipe.steps):
            record = trainer.step(index)
            records.append(record)
            if watch is not None:
                watch(record)
    except KeyboardInterrupt:
        interrupted, stopped_by = True, f"interrupted by the user after {len(records)} steps"
    except TrainingError as error:
        stopped_by = str(error)
    if trainer.recipe.control == "budget" and records:
        trainer._hold_budget(records[-1].target)
    return TrainingRun(
        gates=trainer.gates, records=tuple(records), interrupted=interrupted, stopped_by=stopped_by
    )
