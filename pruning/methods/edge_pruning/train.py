"""One step of training gates, the heart of Edge Pruning; the loop is in `pruning.methods.edge_pruning.loop`.

A step, in order:

1. the schedule says which sparsity is asked for;
2. gates are drawn from the hard-concrete distribution;
3. the masked model runs on a batch; the objective compares it with the full model;
4. the gates' α descend along the objective plus `λ₁(s − t) + λ₂(s − t)²`, and the multipliers λ ascend
   (control `lagrangian`, Bhaskar et al. 2024), or the α move along the surface of the budget (control
   `budget`, see `pruning.methods.edge_pruning.budget`), or of several (control `nested`, see
   `pruning.methods.edge_pruning.nested`: gates follow from α and the budget, and nothing is drawn but that), or along
   the objective plus a price (control `continuous`, see `pruning.methods.edge_pruning.continuous`);
5. under optimal ablation the constants that cut edges carry descend along the objective, in the same step;
6. the step is recorded, and checked for NaN.

All that the next step depends on is the trainer's state (`pruning.methods.edge_pruning.state`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CheckpointError, NotFiniteError, TrainingError
from circuitgraph.torch_state import with_gradients
from circuitgraph.transfer import to_host
from pruning.execution.batch_run import BatchResult, BatchRunner, Share
from pruning.execution.finite import not_finite_text, require_numbers
from pruning.execution.learnt_constants import LearntConstants
from pruning.execution.objectives import objective_named, require_wrong_answers
from pruning.execution.step_settings import StepSettings
from pruning.execution.threads import threads
from pruning.frozen.runs import FrozenRuns, RunCounts
from pruning.methods.edge_pruning.budget import ExpectedGate, project_gradient, shift_for_budget
from pruning.methods.edge_pruning.drawn import gates_of_step
from pruning.methods.edge_pruning.gates import Gates, GateSample
from pruning.methods.edge_pruning.node_pressure import NodePressure
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.schedule import rate_at, target_at
from pruning.methods.edge_pruning.state import StepRecord, TrainingState, optimiser_tensors, put_optimiser_tensors
from pruning.methods.gate_gradients import GatePath, gate_importance
from pruning.prompts.batch_order import BatchOrder

_FEW_GATES = 1 << 18
"""Fewer gates than these are no work for several threads; beside a GPU, waking them takes longer than all of it."""


@dataclass(frozen=True, kw_only=True)
class _Told:
    """The numbers of a step.

    Attributes:
        loss: What was minimised.
        objective: Its part from the task.
        sparsity: Of the gates drawn.
        undecided: Gates strictly between 0 and 1.
        finite: Whether all gradients are.
    """

    loss: float
    objective: float
    sparsity: float
    undecided: int
    finite: bool


class Trainer:
    """Everything that a step needs; one instance a run.

    Args:
        compiled: The model, with the map from edges to gates.
        frozen: The training data with its frozen runs.
        recipe: The settings.
        objective: Name of the objective.
        seed: Seeds the start, the gates drawn and the order of batches.
        how: How steps are run.
        say: Called with a line when something about the run had to change.
        state: Of an earlier run of the same settings, to go on from; None begins anew.

    Attributes:
        runner: Takes batches forward and backward.
        constants: What cut edges carry under optimal ablation; else None.
        records: One per step taken.
    """

    @with_gradients
    def __init__(
        self,
        compiled: CompiledModel,
        frozen: FrozenRuns,
        recipe: Recipe,
        *,
        objective: str,
        seed: int,
        how: StepSettings | None = None,
        say: Callable[[str], None] = lambda line: None,
        state: TrainingState | None = None,
    ) -> None:
        require_wrong_answers(objective, frozen.pairs)
        self.compiled, self.recipe = compiled, recipe
        how = how or StepSettings()
        micro_batch = min(how.micro_batch or recipe.batch_size, recipe.batch_size)
        self.constants = None
        if frozen.ablation == "optimal":
            assert frozen.constant is not None
            self.constants = LearntConstants(compiled, frozen.constant, frozen.pairs)
        self.runner = BatchRunner(
            compiled, frozen, objective_named(objective), micro_batch=micro_batch,
            recompute=how.recompute,
            replay=compiled.device.type == "cuda" if how.replay is None else how.replay,
            constants=self.constants, say=say,
        )  # fmt: skip
        self.generator = torch.Generator().manual_seed(seed)
        self.gates = Gates(
            compiled.gate_map, init_mean=recipe.init_mean, init_std=recipe.init_std, writers=recipe.writer_gates,
            generator=self.generator,
        )  # fmt: skip
        self.order = BatchOrder(
            frozen.by_length, recipe.batch_size, np.random.default_rng(seed), balance=recipe.balance_lengths
        )
        self.optimiser = torch.optim.AdamW(
            self.gates.parameters, lr=recipe.learning_rate, eps=recipe.damping, weight_decay=recipe.weight_decay
        )
        self.multipliers = torch.zeros(4 if recipe.writer_gates else 2, requires_grad=True)
        self.ascent = torch.optim.AdamW(
            [self.multipliers], lr=recipe.multiplier_rate, weight_decay=recipe.weight_decay, maximize=True
        )
        gate_map = compiled.gate_map
        few = compiled.device.type == "cuda" and gate_map.n_parameters < _FEW_GATES
        self._threads = 1 if few else None
        self._weights = torch.tensor(gate_map.edges_per_parameter, dtype=torch.float32)
        self._expected = ExpectedGate()
        self._nodes = NodePressure(compiled.universe) if recipe.node_price else None
        self.records: list[StepRecord] = []
        if state is not None:
            self.restore(state)
            return
        if recipe.warm_start == "gate-importance":
            self._warm_start(seed)
        self.began = time.perf_counter()

    def _warm_start(self, seed: int) -> None:
        path = GatePath(batches=self.recipe.warm_start_batches, batch_size=self.recipe.batch_size)
        importance = gate_importance(self.runner, path, seed=seed)
        require_numbers(importance, self.runner.frozen, "gate importances")
        self.start_from(importance)

    def start_from(self, strength: Float[Tensor, " edge"]) -> None:
        """Begin with α in the order of the strength of edges, spread as the recipe says.

        Args:
            strength: Not negative.
        """
        assert not self.records, "steps were taken already"
        self.gates.start_from(strength, mean=self.recipe.init_mean, spread=self.recipe.init_std)

    def state(self) -> TrainingState:
        """All that the next step depends on, as copies."""
        frozen = self.runner.frozen
        return TrainingState(
            seconds=time.perf_counter() - self.began,
            records=tuple(self.records),
            parameters=tuple(parameter.detach().clone() for parameter in self.gates.parameters),
            optimiser=tuple(optimiser_tensors(self.optimiser, parameter) for parameter in self.gates.parameters),
            multipliers=self.multipliers.detach().clone(),
            ascent=optimiser_tensors(self.ascent, self.multipliers),
            generator=self.generator.get_state(),
            order=self.order.state(),
            runner=self.runner.state(),
            counts={"filled": asdict(frozen.filled), "drawn": asdict(frozen.drawn)},
            constants={} if self.constants is None else self.constants.state(),
        )

    @with_gradients
    def restore(self, state: TrainingState) -> None:
        """Go on from a state of a run of the same settings.

        Args:
            state: What `state` gave, in this process or another; it is copied.

        Raises:
            CheckpointError: It is of another run, or damaged.
        """
        state.require_fits(self.gates.parameters, self.multipliers, len(self.runner.frozen.pairs))
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint's state cannot be taken up ({type(error).__name__}: {error}); remove the folder of "
                "checkpoints to begin anew"
            ) from error

    def _restore(self, state: TrainingState) -> None:
        frozen = self.runner.frozen
        with torch.no_grad():
            for parameter, value in zip(self.gates.parameters, state.parameters, strict=True):
                parameter.copy_(value)
            self.multipliers.copy_(state.multipliers)
        put_optimiser_tensors(self.optimiser, state.optimiser)
        put_optimiser_tensors(self.ascent, [state.ascent])
        self.generator.set_state(state.generator)
        self.order.restore(state.order)
        self.runner.restore(state.runner)
        if self.constants is not None:
            self.constants.restore(state.constants)
        frozen.filled, frozen.drawn = (RunCounts(**state.counts[name]) for name in ("filled", "drawn"))
        self.records = list(state.records)
        self.began = time.perf_counter() - state.seconds

    @with_gradients
    def step(self, index: int) -> StepRecord:
        """Take one step and record it.

        Args:
            index: The step, from 0.

        Returns:
            Its record.

        Raises:
            TrainingError: The loss or a gradient is not finite.
        """
        with threads(self._threads):
            record = self._step(index)
        self.records.append(record)
        return record

    def _step(self, index: int) -> StepRecord:
        recipe = self.recipe
        target = recipe.scheduled(index)
        self._set_rates(index)
        if recipe.control == "budget":
            self._sharpen(index)
            self._hold_budget(target)
        drawn = gates_of_step(self.gates, recipe, index, self._weights, self.generator)
        samples, ran = self._run(self.order.next(), drawn)
        penalty = self._penalties(index, samples, target)
        gradients, objective = _brought(ran)
        self._backward(samples, gradients, penalty)
        told = self._tell(samples, objective, penalty, ran.constants)
        self._check_finite(index, told)
        self._move()
        self._move_constants(index, ran.constants)
        if not all(bool(parameter.isfinite().all()) for parameter in self.gates.parameters):
            raise TrainingError(
                f"step {index}: gates are not finite after it; the state before this step was kept. Try a lower "
                "learning rate."
            )
        lambdas = self.multipliers.detach().tolist()
        return StepRecord(
            step=index,
            seconds=time.perf_counter() - self.began,
            loss=told.loss,
            objective=told.objective,
            sparsity=told.sparsity,
            target=target,
            lambda1=lambdas[0],
            lambda2=lambdas[1],
            live_heads=ran.live_heads,
            live_mlps=ran.live_mlps,
            undecided=told.undecided,
        )

    def _set_rates(self, index: int) -> None:
        """Give both optimisers the learning rates of a step."""
        recipe = self.recipe
        rate = rate_at(index, steps=recipe.steps, warmup_steps=recipe.warmup_steps)
        for optimiser, base in ((self.optimiser, recipe.learning_rate), (self.ascent, recipe.multiplier_rate)):
            for group in optimiser.param_groups:
                group["lr"] = base * rate

    def _penalties(self, index: int, samples: Sequence[GateSample], target: float) -> Tensor | None:
        """What is added to the objective: for being off the targets or open, and for nodes; None if nothing is."""
        recipe, terms = self.recipe, []
        if recipe.control in ("lagrangian", "continuous") and index < recipe.steps - recipe.settle_steps:
            terms.append(self._off_targets(index, samples, target))
        if self._nodes is not None:
            terms.append(recipe.node_price * _mean([self._nodes.nodes(sample.edges) for sample in samples]))
        return sum(terms[1:], terms[0]) if terms else None

    def _off_targets(self, index: int, samples: Sequence[GateSample], target: float) -> Tensor:
        """What the multipliers ask for being off the targets, or the price of what is open."""
        recipe = self.recipe
        if recipe.control == "continuous":
            return recipe.price * self.compiled.universe.n_edges * (1 - _mean([one.sparsity for one in samples]))
        penalty = self._penalty(_mean([sample.sparsity for sample in samples]), target, self.multipliers[:2])
        writers = [sample.writer_sparsity for sample in samples if sample.writer_sparsity is not None]
        if writers:
            goal = target_at(index, target=recipe.writer_target, ramp_steps=recipe.ramp_steps, ramp=recipe.ramp)
            penalty = penalty + self._penalty(_mean(writers), goal, self.multipliers[2:])
        return penalty

    def _backward(self, samples: Sequence[GateSample], gradients: list[Tensor], penalty: Tensor | None) -> None:
        """Take objective and penalty backward, to α and the multipliers."""
        self.optimiser.zero_grad()
        self.ascent.zero_grad()
        losses = [sample.edges for sample in samples] + ([] if penalty is None else [penalty])
        torch.autograd.backward(losses, [*gradients, *([] if penalty is None else [None])])

    def _tell(
        self, samples: Sequence[GateSample], objective: float, penalty: Tensor | None, constants: Tensor | None
    ) -> _Told:
        """The numbers of a step; `constants` is their gradient."""
        gradients = [p.grad for p in self.gates.parameters if p.grad is not None]
        gradients += [] if constants is None else [constants]
        return _Told(
            loss=objective + (0.0 if penalty is None else float(penalty.detach())),
            objective=objective,
            sparsity=float(_mean([sample.sparsity.detach() for sample in samples])),
            undecided=round(sum(sample.undecided for sample in samples) / len(samples)),
            finite=all(bool(gradient.isfinite().all()) for gradient in gradients),
        )

    def _move(self) -> None:
        """Take the steps of α and of the multipliers."""
        if self.recipe.control == "budget":
            gradient = self.gates.log_alpha.grad
            assert gradient is not None
            gradient.copy_(project_gradient(gradient, self.gates.log_alpha, self._weights, self._expected))
        self.optimiser.step()
        if self.multipliers.grad is not None:
            self.ascent.step()

    def _move_constants(self, index: int, gradient: Tensor | None) -> None:
        """Take the step of what cut edges carry, against its gradient."""
        if self.constants is not None and gradient is not None:
            recipe = self.recipe
            rate = rate_at(index, steps=recipe.steps, warmup_steps=recipe.warmup_steps)
            self.constants.step(gradient, recipe.constants_rate * rate)

    def _run(self, prompts: np.ndarray, samples: Sequence[GateSample]) -> tuple[list[GateSample], BatchResult]:
        """Run a batch, each draw of the gates on its share; also gives the draws for which there were prompts."""
        shares = zip(samples, np.array_split(prompts, len(samples)), strict=True)
        drawn = [(sample, share) for sample, share in shares if len(share)]
        ran = self.runner.run(
            [
                Share(prompts=share, gates=sample.edges, wanted=sample.wanted, likely=self.gates.likely)
                for sample, share in drawn
            ]
        )
        return [sample for sample, _ in drawn], ran

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
        return multipliers[0] * gap + multipliers[1] * gap * gap

    def _check_finite(self, index: int, told: _Told) -> None:
        if math.isfinite(told.loss) and told.finite:
            return
        why_not = not_finite_text(self.runner.frozen)
        if why_not and index == 0:
            raise NotFiniteError(
                f"there is nothing to train towards: {why_not}. Try --dtype float32, or other weights."
            )
        raise TrainingError(
            f"step {index}: the loss or its gradient is not finite (loss {told.loss}); the state before "
            f"this step was kept. {why_not or 'Try --dtype float32, or a lower learning rate'}."
        )


def _brought(ran: BatchResult) -> tuple[list[Tensor], float]:
    """A batch's gradients and objective on the host: the one time in a step that it waits for the device."""
    *gradients, objective = to_host(*ran.gradients, ran.objective)
    assert objective is not None
    return [torch.from_numpy(gradient) for gradient in gradients if gradient is not None], float(objective)


def _mean(numbers: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(numbers)).float().mean() if len(numbers) > 1 else numbers[0]
