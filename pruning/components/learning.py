"""A constant for every writer, such that taking that writer alone out of the full model hurts least.

All constants are learnt at once, each sample with one writer out (Li and Janson 2024): they do not meet, so what is
learnt for one writer does not depend on the others.

1. Each constant begins at the best, on all training prompts, of zero, the writer's mean, and a few others: what it says
   itself at one position of one prompt, and points on lines through two such outputs, up to half as far again.
2. Each step takes a batch of prompts, takes each writer out of each of them, and moves every constant by Adam.
3. Of what was learnt and the starts, each writer keeps the best on all training prompts. So on these no writer's
   constant is worse than zero or mean ablation, by construction; on new prompts it may be.

Adam finds a minimum near its start. Where the loss has steps, as in a compiled program, the starts find more than it.

References:
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951), and its code, `maxtli/optimalablation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.errors import ConfigurationError, TrainingError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.constants import constants_of_values, values_of_constants
from circuitgraph.torch_state import with_gradients
from pruning.components.samples import Samples
from pruning.execution.learnt_constants import LearntConstants
from pruning.frozen.constants import mean_constants
from pruning.prompts.encoding import EncodedPairs

STEPS, RATE, BATCH_SIZE, STARTS = 60, 0.1, 8, 8
Tick = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class EachConstant:
    """A constant per writer, each for that writer alone.

    Attributes:
        values: All of them, of kind `optimal`; writers that were not asked for have their means.
        kept: By writer, what was the best on the training prompts: `learnt`, `mean`, `zero` or `said`, something near
            what the writer says itself.
        losses: By candidate, each writer's mean distance on them `[writer]`; `said` is the best of those.
    """

    values: AblationValues
    kept: dict[str, str]
    losses: dict[str, np.ndarray]


@with_gradients
def learn_each_constant(
    samples: Samples,
    pairs: EncodedPairs,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    batch_size: int = BATCH_SIZE,
    starts: int = STARTS,
    seed: int = 0,
    tick: Tick | None = None,
) -> EachConstant:
    """Learn the constants of some writers.

    Args:
        samples: The model and its writers.
        pairs: The training prompts, at least one.
        steps: Steps of the optimiser.
        rate: Its step size at the beginning, in standard deviations of what each writer says; it falls to 0.
        batch_size: Prompts per step.
        starts: How many constants near its own outputs each writer tries before the first step.
        seed: Of the order of prompts, and of these.
        tick: Called with the number of steps done and of all.

    Returns:
        The constants.

    Raises:
        ConfigurationError: No prompts, or settings out of range.
        TrainingError: A gradient is not finite.
    """
    if not len(pairs):
        raise ConfigurationError("constants are learnt on prompts; got none")
    if steps < 0 or starts < 0 or batch_size < 1 or not 0 < rate < float("inf"):
        raise ConfigurationError(
            "steps and starts must be 0 or more, batch_size 1 or more and rate a number above 0; got "
            f"{steps}, {starts}, {batch_size} and {rate:g}"
        )
    model = samples.compiled.runnable
    mean = constants_of_values(model, mean_constants(samples.compiled, pairs))
    candidates = {"mean": mean, "zero": torch.zeros_like(mean)}
    losses = losses_of_constants(samples, pairs, candidates, batch_size=batch_size, seed=seed)
    if starts:
        said = {str(place): one for place, one in enumerate(_own_outputs(samples, pairs, mean, starts, seed))}
        of_said = losses_of_constants(samples, pairs, said, batch_size=batch_size, seed=seed)
        candidates["said"], _ = _best(samples, said, of_said)
        losses["said"] = np.nanmin([np.where(np.isnan(one), np.inf, one) for one in of_said.values()], axis=0)
    start, _ = _best(samples, candidates, losses)
    constants = LearntConstants(samples.compiled, values_of_constants(model, start), pairs)
    rng, waiting = np.random.default_rng(seed), np.zeros(0, dtype=np.int64)
    for step in range(steps):
        while len(waiting) < min(batch_size, len(pairs)):
            waiting = np.concatenate([waiting, rng.permutation(len(pairs))])
        rows, waiting = waiting[:batch_size], waiting[batch_size:]
        gradient = _gradient(samples, pairs, constants.numbers, rows)
        if not bool(gradient.isfinite().all()):
            raise TrainingError(f"constants, step {step}: a gradient is not finite; try --dtype float32")
        constants.step(gradient, rate * (1 - step / steps))
        if tick is not None:
            tick(step + 1, steps)
    candidates["learnt"] = constants.numbers.detach().clone()
    learnt = {"learnt": candidates["learnt"]}
    losses |= losses_of_constants(samples, pairs, learnt, batch_size=batch_size, seed=seed)
    best, kept = _best(samples, candidates, losses)
    return EachConstant(values=values_of_constants(model, best), kept=kept, losses=losses)


def _gradient(samples: Samples, pairs: EncodedPairs, numbers: Tensor, rows: np.ndarray) -> Float[Tensor, " number"]:
    """Of each writer's mean distance over some prompts of any lengths, in its own constant."""
    gradient = torch.zeros_like(numbers)
    for prompts in samples.batches(pairs.subset(rows), len(rows)):
        dtype = prompts.run.logits.dtype
        for group in samples.groups:
            leaves = {one: numbers[samples.where[one]].detach().requires_grad_() for one in group.writers.tolist()}
            with torch.enable_grad():
                found = samples.distances(prompts, group, lambda one: leaves[one].to(dtype)[None, None])  # noqa: B023
                parts = torch.autograd.grad(found.sum() / len(rows), list(leaves.values()))
            for writer, part in zip(leaves, parts, strict=True):
                gradient[samples.where[writer]] += part
    return gradient


@torch.no_grad()
def _own_outputs(
    samples: Samples, pairs: EncodedPairs, mean: Float[Tensor, " number"], n: int, seed: int
) -> list[Float[Tensor, " number"]]:
    """What each writer says at one position of one prompt, and points on lines through two such outputs."""
    rng = np.random.default_rng(seed)

    def one() -> Tensor:
        row = int(rng.integers(len(pairs)))
        at, numbers = int(rng.integers(len(pairs.clean_ids[row]))), mean.clone()
        said = samples.prompts(pairs, np.array([row])).run.said
        for group in samples.groups:
            for writer in group.writers.tolist():
                numbers[samples.where[writer]] = samples.said_by(said, writer)[0, at].to(mean.dtype)
        return numbers

    return [one() if place % 2 == 0 else torch.lerp(one(), one(), float(rng.uniform(-0.5, 1.5))) for place in range(n)]


@torch.no_grad()
def losses_of_constants(
    samples: Samples,
    pairs: EncodedPairs,
    candidates: Mapping[str, Float[Tensor, " number"]],
    *,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " writer"]]:
    """Each writer's mean distance over all prompts, when it alone says its constant.

    Args:
        samples: The model and its writers.
        pairs: The prompts.
        candidates: Constants of all writers of the model, by a name.
        batch_size: Prompts run at once.
        seed: Of the order, which rounding alone depends on.
    """
    totals = {name: np.zeros(len(samples.names)) for name in candidates}
    for prompts in samples.batches(pairs, batch_size, seed=seed):
        for name, numbers in candidates.items():
            said = numbers.to(prompts.run.logits.dtype)
            for group in samples.groups:
                found = samples.distances(prompts, group, lambda writer: said[samples.where[writer]][None, None])  # noqa: B023
                totals[name][group.places] += found.double().sum(1).cpu().numpy()
    return {name: total / len(pairs) for name, total in totals.items()}


def _best(
    samples: Samples, candidates: Mapping[str, Tensor], losses: Mapping[str, np.ndarray]
) -> tuple[Tensor, dict[str, str]]:
    """Each writer's best constant, and which candidate it is; the means of writers that were not asked for."""
    names = list(candidates)
    best, kept = candidates[names[0]].clone(), {}
    for group in samples.groups:
        for writer, place in zip(group.writers.tolist(), group.places.tolist(), strict=True):
            column = np.array([losses[name][place] for name in names])
            chosen = names[int(np.nanargmin(column))] if np.isfinite(column).any() else names[0]
            best[samples.where[writer]] = candidates[chosen][samples.where[writer]]
            kept[samples.names[place]] = chosen
    return best, kept
