"""What an intervention does at several strengths: does the answer win, and what else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.interventions.applied import intervene
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state
from pruning.execution.objectives import first_asked, kl_divergence, logit_difference
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.two_answers import kl_of_others, other_tokens, require_two_answers

Run = Callable[[TokenBatch, AblationValues], Tensor]
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
MEASURES = ("right_wins", "logit_difference", "kl_others", "kl", "same_top")


@in_settled_state
@torch.no_grad()
def judge_intervention(
    compiled: CompiledModel,
    intervention: Intervention,
    pairs: EncodedPairs,
    *,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Run an intervention on prompts, at several strengths.

    Args:
        compiled: The model.
        intervention: Of zero ablation.
        pairs: Prompts with right and wrong answers; none that it was learnt on.
        strengths: How much of it.
        batch_size: Prompts run at once; halved when memory runs out.

    Returns:
        A row per strength, means over prompts: `right_wins`, the share whose right answers have the larger mean logit;
        `logit_difference`, right minus wrong; `kl_others`, KL(model ‖ steered) over all tokens but the answers,
        renormalised, and `kl`, over all tokens, in nats; `same_top`, the share whose likeliest token is the model's.
        All are NaN at a strength at which any prompt's logits are NaN or infinite.

    Raises:
        ConfigurationError: Prompts without wrong answers, or an intervention of another ablation.
        GraphMismatchError: Another universe.
    """
    changed = [intervene(compiled, intervention, strength=strength).logits for strength in strengths]
    return judge_runs(compiled, changed, pairs, strengths, batch_size=batch_size)


@in_settled_state
@torch.no_grad()
def judge_runs(
    compiled: CompiledModel,
    runs: Sequence[Run],
    pairs: EncodedPairs,
    strengths: Sequence[float],
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """The table of `judge_intervention` for any ways to run the model.

    Args:
        compiled: The model.
        runs: One per strength: given a batch and the values of zero ablation, the logits at the asked positions.
        pairs: Prompts with right and wrong answers.
        strengths: What the rows are called.
        batch_size: Prompts run at once; halved when memory runs out.

    Raises:
        ConfigurationError: Prompts without wrong answers.
    """
    require_two_answers(pairs)
    frozen = FrozenRuns(compiled, pairs, ablation="zero", budget_bytes=0, batch_size=batch_size)
    portions = Portions(compiled, batch_size)
    found: list[Tensor] = []
    for members in frozen.by_length.values():
        found += portions.run(lambda some: _measured(frozen, runs, some), members)
    frame = pd.DataFrame(torch.cat(found).mean(0).tolist(), columns=MEASURES)
    frame.insert(0, "strength", list(strengths))
    return frame


def _measured(
    frozen: FrozenRuns, changed: Sequence[Run], prompts: np.ndarray
) -> Float[Tensor, "prompt strength measure"]:
    """Every measure of some prompts, of one length, on the host."""
    batch = frozen.batch(prompts)
    rows = first_asked(batch.pairs)
    own = batch.teacher_logits[rows].float()
    others = other_tokens(batch.pairs, own.shape[-1])
    found = []
    for one in changed:
        logits = one(batch.pairs.clean, batch.values)
        difference = logit_difference(logits, batch.pairs)
        steered = logits[rows].float()
        same = (steered.argmax(-1) == own.argmax(-1)).float()
        columns = [
            (difference > 0).float(),
            difference,
            kl_of_others(steered, own, others).clamp(min=0),  # below 0 is rounding alone
            kl_divergence(steered, own).clamp(min=0),
            same,
        ]
        finite = (steered.isfinite() & own.isfinite()).all(-1, keepdim=True)
        found.append(torch.stack(columns, -1).masked_fill(~finite, torch.nan))
    return torch.stack(found, 1).double().cpu()
