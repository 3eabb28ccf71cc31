"""Steering vectors: the usual baseline of scalings, one vector per writer, added at all positions.

What a writer says becomes `h + βv`; the same objective as scalings have, the same two directions. A vector has
`d_model` numbers where a scaling has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import TrainingError, UnknownNameError
from circuitgraph.forward.patched_run import Patch, patched_run
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.torch_state import with_gradients
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.schedule import rate_at
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.judged import STRENGTHS, judge_runs
from pruning.steering.scaling import DEFAULT, ScalingSettings
from pruning.steering.two_answers import answer_against_wrong, require_two_answers

Vectors = dict[str, Float[Tensor, " d_model"]]


@with_gradients
def learn_vectors(
    compiled: CompiledModel,
    pairs: EncodedPairs,
    settings: ScalingSettings = DEFAULT,
    *,
    writers: Sequence[str] | None = None,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Vectors:
    """Learn one vector per writer so that an answer wins.

    Args:
        compiled: The model.
        pairs: Prompts with right and wrong answers.
        settings: As those of scalings; `unit` is not looked at, and `sparsity` draws vectors to 0 by their length: it
            is a share of the longest step of a whole vector, that of one number times the root of `d_model`.
        writers: Which writers have one; by default all.
        seed: Of the order of prompts.
        tick: Called with steps done and in all.

    Returns:
        The vectors by writer; those of length 0 are left out.

    Raises:
        ConfigurationError: Prompts without wrong answers.
        UnknownNameError: No such writer.
        TrainingError: Numbers are not finite.
    """
    require_two_answers(pairs)
    refuse_spans(compiled.universe, "learning vectors")
    names = tuple(compiled.universe.writers if writers is None else writers)
    for name in names:
        if name not in compiled.universe.writers:
            raise UnknownNameError.of("writer", name, compiled.universe.writers)
    frozen = FrozenRuns(compiled, pairs, ablation="zero", batch_size=settings.batch_size)
    objectives = {sign: answer_against_wrong(sign, faithfulness=settings.faithfulness) for sign in (1.0, -1.0)}
    like = next(compiled.model.parameters())
    vectors = torch.zeros(len(names), compiled.shape.d_model, dtype=like.dtype, device=like.device, requires_grad=True)
    optimiser = torch.optim.Adam([vectors], lr=settings.learning_rate)
    order = BatchOrder(frozen.by_length, settings.batch_size, np.random.default_rng(seed))
    longest = compiled.shape.d_model**0.5  # How far a vector moves where each of its numbers moves by 1.
    for step in range(settings.steps):
        rate = settings.learning_rate * rate_at(step, steps=settings.steps, warmup_steps=0)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        batch = frozen.batch(order.next())
        for sign, objective in objectives.items():
            added = dict(zip(names, sign * settings.strength * vectors, strict=True))
            logits = patched_run(compiled.runnable, batch.pairs.clean, Patch(added=added))
            objective(logits, batch.teacher, batch.pairs).backward()
        if vectors.grad is None or not bool(vectors.grad.isfinite().all()):
            raise TrainingError(f"step {step}: a gradient is not finite; try a lower learning rate or strength")
        optimiser.step()
        with torch.no_grad():
            lengths = vectors.norm(dim=-1, keepdim=True)
            vectors *= (1 - rate * settings.sparsity * longest / lengths.clamp(min=1e-12)).clamp(min=0)
        tick(step + 1, settings.steps)
    return {name: row for name, row in zip(names, vectors.detach(), strict=True) if bool(row.any())}


@torch.no_grad()
def judge_vectors(
    compiled: CompiledModel,
    vectors: Vectors,
    pairs: EncodedPairs,
    *,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int = 16,
) -> pd.DataFrame:
    """The same table for vectors as `judge_intervention` gives for interventions.

    Args:
        compiled: The model.
        vectors: By writer.
        pairs: Prompts with right and wrong answers.
        strengths: How much of them is added.
        batch_size: Prompts run at once.

    Raises:
        ConfigurationError: Prompts without wrong answers.
    """
    model = compiled.runnable

    def at(strength: float) -> Callable[..., Tensor]:
        patch = Patch(added={name: strength * vector for name, vector in vectors.items()})
        return lambda batch, _values: patched_run(model, batch, patch)

    return judge_runs(compiled, [at(strength) for strength in strengths], pairs, strengths, batch_size=batch_size)
