"""The null token: one vector in place of every subject token, such that the model loses least.

1. It begins at the best, on all training prompts, of the mean of all subject tokens and a few of these. It never begins
   at zero: what norms make of zeros has endless gradients where zeros are all that a position sees.
2. Each step takes a batch of prompts, hides their subjects, and moves the vector by Adam, in float32 at least.
3. Of what was learnt, all of the first, and zero, the best on all training prompts is kept. So on these it is never
   worse than the mean, by construction; on new prompts it may be.

It can be learnt anew for each window of what is restored: the vector that hurts least while these parts say what they
said. Then it begins at the one that was learnt for hiding alone, and the better of both is kept, window by window.

References:
    Li, Janson 2024, Optimal ablation for interpretability (arXiv 2409.09951), section 4, and its code,
    `maxtli/optimalablation`, which learns a token for each window and one for hiding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.errors import ConfigurationError, TrainingError, UnknownNameError
from pruning.tracing.corruption import different_subjects, subject_embeddings
from pruning.tracing.prompts import TracedBatch, TracedPrompts
from pruning.tracing.windows import Window
from pruning.whole_numbers import whole_number

KL, ANSWER = OBJECTIVES = ("kl", "answer")
STEPS, RATE, STARTS = 60, 0.1, 4
FIRST_DECAY, SECOND_DECAY = 0.9, 0.999
_FIX = "try a smaller rate, or --dtype float32"
Tick = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class NullToken:
    """A vector in place of subject tokens.

    Attributes:
        value: The vector `[d_model]`.
        losses: By candidate (`zero`, `mean`, `said`, the best of some subject tokens, `learnt`), its mean loss on the
            training prompts; without those that were not tried, or whose loss is not finite.
        kept: Which it is.
    """

    value: Float[Tensor, " d_model"]
    losses: dict[str, float]
    kept: str


def check_learning(objective: str, steps: int, rate: float, starts: int = 0) -> None:
    """Refuse settings before anything runs.

    Args:
        objective: `kl` or `answer`.
        steps: Steps.
        rate: Their size.
        starts: Subject tokens that are tried first.

    Raises:
        UnknownNameError: No such objective.
        ConfigurationError: A number out of range.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError.of("objective of the null token", objective, OBJECTIVES)
    whole_number("steps", steps)
    whole_number("starts", starts)
    if not isinstance(rate, Real) or not 0 < rate < float("inf"):
        raise ConfigurationError(f"rate must be a number above 0; got {rate!r}")


def learn_null_token(
    prompts: TracedPrompts,
    *,
    objective: str = KL,
    steps: int = STEPS,
    rate: float = RATE,
    starts: int = STARTS,
    seed: int = 0,
    tick: Tick | None = None,
) -> NullToken:
    """Learn the vector that hurts least when it stands in place of every subject token.

    Args:
        prompts: The training prompts.
        objective: `kl`, the distance from the full model, or `answer`, minus the logarithm of the right answer's
            probability.
        steps: Steps of the optimiser, each of one batch.
        rate: Their size at the beginning, in standard deviations of embeddings; it falls to 0.
        starts: How many subject tokens are tried as a beginning.
        seed: Of the order of batches, and of these tokens.
        tick: Called with the number of steps done and of all.

    Raises:
        UnknownNameError: No such objective.
        ConfigurationError: Settings out of range.
        TrainingError: A gradient, or what was learnt, is not finite.
    """
    check_learning(objective, steps, rate, starts)
    every = subject_embeddings(prompts)
    mean = every.mean(0)
    said = different_subjects(prompts)
    drawn = np.random.default_rng(seed).permutation(len(said))[:starts]
    candidates = torch.stack([torch.zeros_like(mean), mean, *(said[one] for one in drawn.tolist())])
    losses = token_losses(prompts, candidates, [None] * len(candidates), objective).nan_to_num(nan=float("inf"))
    named, values = {"zero": float(losses[0]), "mean": float(losses[1])}, {"zero": candidates[0], "mean": mean}
    if starts:
        best = 2 + int(losses[2:].argmin())
        named["said"], values["said"] = float(losses[best]), candidates[best]
    begun = values[min((name for name in named if name != "zero"), key=lambda name: named[name])]
    if steps:
        learnt = _moved(prompts, begun[None], [None], objective, steps, rate, float(every.std()), seed, tick)
        named["learnt"], values["learnt"] = float(token_losses(prompts, learnt, [None], objective)[0]), learnt[0]
        if not isfinite(named["learnt"]):
            raise TrainingError(f"null token, after {steps} steps: its loss is not finite; {_FIX}")
    named = {name: loss for name, loss in named.items() if isfinite(loss)}
    if not named:
        raise TrainingError("null token: no candidate's loss is finite; try --dtype float32")
    kept = min(named, key=lambda name: named[name])
    return NullToken(value=values[kept], losses=named, kept=kept)


def learn_window_tokens(
    prompts: TracedPrompts,
    start: Float[Tensor, " d_model"],
    windows: Sequence[Window | None],
    *,
    objective: str = KL,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
    tick: Tick | None = None,
) -> Float[Tensor, "window d_model"]:
    """Learn, for each window, the vector that hurts least while the window is restored; all at once.

    Args:
        prompts: The training prompts.
        start: Where each begins: the null token.
        windows: What is restored; None for nothing.
        objective: As of `learn_null_token`.
        steps: As of `learn_null_token`.
        rate: As of `learn_null_token`.
        seed: Of the order of batches.
        tick: Called with the number of steps done and of all.

    Returns:
        A vector for each window; on the training prompts none is worse than `start`.
    """
    check_learning(objective, steps, rate)
    begun = start[None].repeat(len(windows), 1)
    spread = float(subject_embeddings(prompts).std())
    learnt = _moved(prompts, begun, windows, objective, steps, rate, spread, seed, tick)
    better = token_losses(prompts, learnt, windows, objective) < token_losses(prompts, begun, windows, objective)
    return torch.where(better[:, None], learnt, begun)


@torch.no_grad()
def token_losses(
    prompts: TracedPrompts,
    tokens: Float[Tensor, "token d_model"],
    windows: Sequence[Window | None],
    objective: str,
) -> Float[Tensor, " token"]:
    """The mean loss of each vector over all prompts.

    Args:
        prompts: The prompts.
        tokens: Vectors in place of subject tokens.
        windows: What is restored with each; None for nothing.
        objective: As of `learn_null_token`.
    """
    total = torch.zeros(len(tokens), dtype=torch.float64)
    for batch in prompts.batches:
        for numbers, back, found in batch.samples(tokens[:, None, None], windows):
            total[numbers] += _loss(batch, found, objective).double().sum(-1).cpu()[back]
    return (total / len(prompts.pairs)).to(tokens.device)


def _loss(batch: TracedBatch, found: Tensor, objective: str) -> Float[Tensor, "sample prompt"]:
    return batch.distance(found) if objective == KL else -batch.log_right(found)


def _moved(
    prompts: TracedPrompts, start: Tensor, windows: Sequence[Window | None], objective: str, steps: int, rate: float,
    spread: float, seed: int, tick: Tick | None,
) -> Float[Tensor, "token d_model"]:  # fmt: skip
    """Vectors after some steps of Adam (Kingma and Ba 2015), each by itself."""
    rng, waiting = np.random.default_rng(seed), []
    of_prompt = len(prompts.pairs) / len(prompts.batches)  # so that a prompt counts as much in whatever batch it is
    # Half precision has no room for squares of gradients, nor for small steps.
    tokens = start.to(torch.promote_types(start.dtype, torch.float32))
    first, second = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for step in range(1, steps + 1):
        waiting = waiting or rng.permutation(len(prompts.batches)).tolist()
        gradient = _gradient(prompts.batches[waiting.pop()], tokens.to(start.dtype), windows, objective)
        gradient = gradient.to(tokens.dtype) / of_prompt
        if not bool(gradient.isfinite().all()):
            raise TrainingError(f"null token, step {step - 1}: a gradient is not finite; {_FIX}")
        first.lerp_(gradient, 1 - FIRST_DECAY)
        second.lerp_(gradient.square(), 1 - SECOND_DECAY)
        moved = (first / (1 - FIRST_DECAY**step)) / ((second / (1 - SECOND_DECAY**step)).sqrt() + 1e-8)
        tokens = tokens - rate * spread * (1 - (step - 1) / steps) * moved
        if tick is not None:
            tick(step, steps)
    return tokens.to(start.dtype)


def _gradient(
    batch: TracedBatch, tokens: Tensor, windows: Sequence[Window | None], objective: str
) -> Float[Tensor, "token d_model"]:
    """Of the sum of each vector's losses over a batch."""
    gradient = torch.zeros_like(tokens)
    at_once = batch.at_once(gradients=True)
    for start in range(0, len(tokens), at_once):
        some = slice(start, start + at_once)
        leaves = tokens[some].detach().requires_grad_()
        with torch.enable_grad():
            parts = []
            for _, back, found in batch.samples(leaves[:, None, None], windows[some]):
                parts.append(_loss(batch, found, objective)[back].sum())
            (gradient[some],) = torch.autograd.grad(torch.stack(parts).sum(), leaves)
    return gradient
