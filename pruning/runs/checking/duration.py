"""How long a run will take, by stage: a few of its passes are timed, and counted as often as the run makes them.

Timed, after one pass that does not count, on training prompts of the commonest length:

1. filling the cache: the full model on the prompt, and on the counterfactual with all that is kept of it;
2. a step, forward and backward, with gates drawn at random as sparse as the schedule begins, as it ends, and at levels
   between where it goes through them; a step of the warm start, where there is one;
3. a circuit of the target's size drawn at random, forward alone, on all of them and on one; and its complement.

A pass takes a time of its own besides that of its prompts, and evaluation runs prompts of one length at a time: so
passes and prompts are counted apart.

The run is then

    filling      prompts of the train split × 1
    warm start   its batches × its step
    training     steps × a step, as sparse as the schedule says, between those timed × `TRAINED`;
                 with learnt constants also the steps that refine them
    evaluation   (prompts of each evaluated split × (filling + complement) + circuit and raw edges on them
                 + random circuits on the prompts that they run on) × `EVALUATED`
    effects      a circuit on one prompt alone × `EFFECTS`, if anything is evaluated
    files        `FILES` + `FILES_PER_EDGE` × kept edges

Constants stand below, with where they come from; they are ratios, so that a slow machine, or a busy one, changes the
estimate as it changes the run. Loading, compiling and this check itself are not in it, nor is waiting for other
programs that begin later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pruning.evaluation.sampled import sampled_prompts
from pruning.execution.batch_run import BatchRunner, Share
from pruning.execution.learning import BATCH_SIZE as REFINED
from pruning.execution.learnt_constants import LearntConstants
from pruning.execution.objectives import objective_named
from pruning.frozen.constants import begun_at
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.nested import budget_at

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.methods.edge_pruning.recipes import Recipe
    from pruning.prompts.encoding import EncodedPairs

TRAINED = 1.7
"""A step in training by one with gates drawn at random: trained gates are few but lead everywhere, and the draws and
the optimiser are added. 194 s of 300 steps against 120 s (SmolLM2, ioi); on another machine 250 s against 141 s."""
EVALUATED = 1.15
"""Evaluation by what was timed: outputs are scored, and of a finished circuit less is dead than of a random one."""
EFFECTS = 900
"""Measuring what 150 edges and all heads and MLPs do on 8 prompts, by a circuit's pass on one prompt: 39.2 s of one
core for each of the 8 against 0.347 s (SmolLM2, ioi, 2,106 edges, 156 heads and 30 MLPs)."""
FILES, FILES_PER_EDGE = 2.0, 0.0005
"""Seconds for figures, report and explorer, and for drawing an edge; they do not depend on the model."""
BATCH = 16
"""Prompts that evaluation runs at once."""
UNDECIDED = 0.8
"""The share of kept gates whose gradient is wanted."""
WARM_START_LEVELS = 5
_PROMPTS = 16
_BETWEEN = (0.5,)
_CACHE_BYTES = 1 << 30
_REPEATS, _ENOUGH = 3, 1.5


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Seconds by stage.

    Attributes:
        filling: Running what never changes, once for each training prompt.
        warm_start: Before the first step.
        training: All steps.
        evaluation: On all evaluated splits.
        effects: What single edges, heads and MLPs do.
        files: Figures, drawings, explorer and report.
    """

    filling: float
    warm_start: float
    training: float
    evaluation: float
    effects: float
    files: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, float]:
        """Every stage and the total."""
        return {**asdict(self), "total": self.total}

    def times(self, n: int) -> Duration:
        """That of several trainings, each with its files."""
        return Duration(**{name: n * seconds for name, seconds in asdict(self).items()})

    def describe(self) -> str:
        """In words.

        Examples:
            >>> print(Duration(filling=88, warm_start=30, training=250, evaluation=150, effects=0, files=9).describe())
            about 9 min (filling 88 s, warm start 30 s, training 4 min, evaluation 2 min 30 s, files 9 s)
        """
        parts = ", ".join(
            f"{name.replace('_', ' ')} {seconds_text(seconds)}"
            for name, seconds in asdict(self).items()
            if seconds >= 1
        )
        return f"about {seconds_text(self.total)}" + (f" ({parts})" if parts else "")


def seconds_text(seconds: float) -> str:
    """Seconds for people, to two places.

    Examples:
        >>> seconds_text(0.2), seconds_text(88), seconds_text(250), seconds_text(7500)
        ('a second', '88 s', '4 min', '2 h 5 min')
    """
    if seconds < 1.5:
        return "a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds / 30), 2)
        return f"{minutes} min" + (" 30 s" if rest and minutes < 5 else "")
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of single passes.

    Attributes:
        fill: Per prompt.
        warm: A step of the warm start; 0 where there is none.
        steps: Sparsities, rising, and the seconds of a step at each.
        circuit_pass: Of a random circuit, whatever it runs on.
        circuit: What each prompt adds to that.
        complement: Per prompt, of what it leaves.
        refine: Of a step that learns the found circuit's constants on; 0 where none are learnt.
    """

    fill: float
    warm: float
    steps: tuple[tuple[float, float], ...]
    circuit_pass: float
    circuit: float
    complement: float
    refine: float = 0.0

    def of_circuit(self, lengths: np.ndarray) -> float:
        """Seconds of a circuit on prompts of such lengths `[prompt]`, run `BATCH` of one length at a time."""
        _, counts = np.unique(lengths, return_counts=True)
        return float(np.ceil(counts / BATCH).sum()) * self.circuit_pass + len(lengths) * self.circuit


def estimate_duration(
    timed: Timed,
    recipe: Recipe,
    *,
    n_train: int,
    evaluated: Sequence[np.ndarray],
    n_random: int,
    n_random_prompts: int | None,
    n_kept: int,
) -> Duration:
    """Count what a run will do.

    Args:
        timed: What its passes take.
        recipe: The settings.
        n_train: Training prompts.
        evaluated: The lengths of the prompts of each evaluated split `[prompt]`.
        n_random: Random circuits to compare with.
        n_random_prompts: On how many prompts of each split they run; None for all.
        n_kept: Edges that are to be kept.

    Examples:
        >>> from pruning.methods.edge_pruning.recipes import recipe_named
        >>> one = Timed(fill=1, warm=2, steps=((0.9, 3.0), (0.97, 3.0)), circuit_pass=1, circuit=4, complement=5)
        >>> ran = estimate_duration(
        ...     one, recipe_named("quick"), n_train=10, evaluated=[np.array([7, 7])], n_random=8, n_random_prompts=1,
        ...     n_kept=0,
        ... )
        >>> ran.filling, ran.warm_start, ran.training / TRAINED, ran.evaluation / EVALUATED
        (10, 60, 1200.0, 70.0)
    """
    levels, seconds = zip(*timed.steps, strict=True)
    schedule = [_scheduled(recipe, index) for index in range(recipe.steps)]
    warm = WARM_START_LEVELS * recipe.warm_start_batches if recipe.warm_start == "gate-importance" else 0
    evaluation = 0.0
    for lengths in evaluated:
        some = lengths[sampled_prompts(len(lengths), n_random_prompts, seed=0)]
        evaluation += len(lengths) * (timed.fill + timed.complement)
        evaluation += 2 * timed.of_circuit(lengths) + n_random * timed.of_circuit(some)
    return Duration(
        filling=n_train * timed.fill,
        warm_start=warm * timed.warm,
        training=TRAINED * (float(np.interp(schedule, levels, seconds).sum()) + recipe.refine_steps * timed.refine),
        evaluation=EVALUATED * evaluation,
        effects=EFFECTS * (timed.circuit_pass + timed.circuit) if any(map(len, evaluated)) else 0.0,
        files=FILES + FILES_PER_EDGE * n_kept,
    )


def _scheduled(recipe: Recipe, index: int) -> float:
    """The sparsity asked for at a step; with control `nested` as often as each is drawn, in another order."""
    if recipe.control == "nested":
        place = (index + 0.5) / recipe.steps
        return 1 - budget_at(place, sparsest=recipe.end_sparsity, densest=recipe.start_sparsity)
    return min(1.0, recipe.scheduled(index))


def time_passes(
    compiled: CompiledModel,
    train: EncodedPairs,
    recipe: Recipe,
    *,
    objective: str,
    ablation: str,
    plan: MemoryPlan,
    teacher_top_k: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timed:
    """Time a few passes of the kinds that a run is made of.

    Args:
        compiled: The model.
        train: The training prompts, at least one.
        recipe: The settings.
        objective: What is compared.
        ablation: What cut edges carry.
        plan: How many prompts run at once.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.
        clock: In seconds.

    Returns:
        What they took.
    """
    lengths = train.lengths
    commonest = np.flatnonzero(lengths == np.bincount(lengths).argmax())
    recipe = recipe.changed(batch_size=max(recipe.draws, min(recipe.batch_size, len(commonest))))  # no batch has more
    some = train.subset(commonest[:_PROMPTS])
    began = clock()
    frozen = FrozenRuns(
        compiled, some, ablation=ablation, budget_bytes=_CACHE_BYTES, teacher_top_k=teacher_top_k,
        ablation_data=begun_at(compiled, ablation, train),
    )  # fmt: skip
    filling = clock() - began if ablation == "counterfactual" else _fill_again(compiled, some, clock)
    step = _StepClock(compiled, frozen, recipe, objective, plan, clock)
    levels = sorted({max(0.0, _scheduled(recipe, index)) for index in (0, recipe.steps - 1)})
    last = min(1.0, recipe.target_sparsity)
    levels = sorted({*levels, *(level for level in _BETWEEN if levels[0] < level < levels[-1])})
    step(_drawn(compiled, levels[-1]), wanted=1.0)  # what is compiled on the way, and buffers, do not count
    warm = step(_half(compiled), wanted=1.0) if recipe.warm_start == "gate-importance" else 0.0
    timed = [(level, step(_drawn(compiled, level), wanted=UNDECIDED)) for level in levels]
    kept = _drawn(compiled, min(last, 0.999))
    many, one = _forward(compiled, frozen, kept, len(some), clock), _forward(compiled, frozen, kept, 1, clock)
    each = max(0.0, (many - one) / max(1, len(some) - 1))
    return Timed(
        fill=filling / len(some),
        warm=warm,
        steps=tuple(timed),
        circuit_pass=max(0.0, one - each),
        circuit=each,
        complement=_forward(compiled, frozen, 1 - kept, len(some), clock) / len(some),
        refine=timed[-1][1] * max(1.0, REFINED / recipe.batch_size) if ablation == "optimal" else 0.0,
    )


def _fill_again(compiled: CompiledModel, some: EncodedPairs, clock: Callable[[], float]) -> float:
    """Under constant ablation only the full model runs for each prompt."""
    batch = some.batch(range(len(some)), device=compiled.device).clean
    began = clock()
    with torch.no_grad():
        compiled.logits(batch)
    return clock() - began


def _half(compiled: CompiledModel) -> torch.Tensor:
    return torch.full((compiled.universe.n_edges,), 0.5)


def _drawn(compiled: CompiledModel, sparsity: float) -> torch.Tensor:
    """Gates at random, as sparse as that."""
    drawn = torch.rand(compiled.universe.n_edges, generator=torch.Generator().manual_seed(0))
    return (drawn >= sparsity).float()


class _StepClock:
    """Takes steps and says how long they took."""

    def __init__(
        self,
        compiled: CompiledModel,
        frozen: FrozenRuns,
        recipe: Recipe,
        objective: str,
        plan: MemoryPlan,
        clock: Callable[[], float],
    ) -> None:
        n = len(frozen.pairs)
        self._prompts = np.arange(recipe.batch_size) % n
        self._draws, self._clock = recipe.draws, clock
        at_once = min(plan.micro_batch, recipe.batch_size)
        self._runner = BatchRunner(
            compiled, frozen, objective_named(objective), micro_batch=at_once, recompute=plan.recompute,
            constants=_constants(frozen),
        )  # fmt: skip

    def __call__(self, gates: torch.Tensor, *, wanted: float) -> float:
        """Seconds of a step with such gates, of the open ones so many wanted."""
        some = torch.rand(len(gates), generator=torch.Generator().manual_seed(1)) < wanted
        wants = some & (gates > 0)
        gates = torch.where(wants & (gates == 1), torch.tensor(0.5), gates)
        shares = [
            Share(prompts=part, gates=gates, wanted=wants)
            for part in np.array_split(self._prompts, self._draws)
            if len(part)
        ]

        def once() -> float:
            began = self._clock()
            self._runner.run(shares).objective.item()
            return self._clock() - began

        return _typical(once)


def _constants(frozen: FrozenRuns) -> LearntConstants | None:
    """What a step learns beside the gates."""
    if frozen.ablation != "optimal" or frozen.constant is None:
        return None
    return LearntConstants(frozen.compiled, frozen.constant, frozen.pairs)


def _forward(
    compiled: CompiledModel, frozen: FrozenRuns, gates: torch.Tensor, n: int, clock: Callable[[], float]
) -> float:
    """Seconds of a set of edges on so many prompts."""
    with torch.no_grad():
        batch = frozen.batch(np.arange(n))

        def once() -> float:
            began = clock()
            compiled.masked(gates, batch.pairs.clean, batch.values).logits.sum().item()
            return clock() - began

        return _typical(once)


def _typical(once: Callable[[], float]) -> float:
    """The median of a few passes, since what is made at first use would be most of one; a long pass is timed once."""
    seconds = [once()]
    while len(seconds) < _REPEATS and sum(seconds) < _ENOUGH:
        seconds.append(once())
    return float(np.median(seconds))
