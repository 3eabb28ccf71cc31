"""What an intervention does at several strengths: does the answer win, and what else changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.interventions.applied import Intervened, intervene
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state
from pruning.execution.objectives import first_asked, kl_divergence, logit_difference
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.two_answers import kl_of_others, other_tokens, require_two_answers

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_MEASURES = ("right_wins", "logit_difference", "kl_others", "kl", "same_top")


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

    Raises:
        ConfigurationError: Prompts without wrong answers, or an intervention of another ablation.
        GraphMismatchError: Another universe.
    """
    require_two_answers(pairs)
    changed = [intervene(compiled, intervention, strength=strength) for strength in strengths]
    frozen = FrozenRuns(compiled, pairs, ablation="zero", budget_bytes=0, batch_size=batch_size)
    portions = Portions(compiled, batch_size)
    found: list[Tensor] = []
    for members in frozen.by_length.values():
        found += portions.run(lambda some: _measured(frozen, changed, some), members)
    means = torch.cat(found).mean(0).tolist()
    rows = [
        {"strength": strength, **dict(zip(_MEASURES, row, strict=True))}
        for strength, row in zip(strengths, means, strict=True)
    ]
    return pd.DataFrame(rows)


def _measured(
    frozen: FrozenRuns, changed: Sequence[Intervened], prompts: np.ndarray
) -> Float[Tensor, "prompt strength measure"]:
    """Every measure of some prompts, of one length, on the host."""
    batch = frozen.batch(prompts)
    rows = first_asked(batch.pairs)
    own = batch.teacher_logits[rows].float()
    others = other_tokens(batch.pairs, own.shape[-1])
    found = []
    for one in changed:
        logits = one.logits(batch.pairs.clean, batch.values)
        difference = logit_difference(logits, batch.pairs)
        steered = logits[rows].float()
        same = (steered.argmax(-1) == own.argmax(-1)).float()
        columns = [
            (difference > 0).float(),
            difference,
            kl_of_others(steered, own, others),
            kl_divergence(steered, own),
            same,
        ]
        found.append(torch.stack(columns, -1))
    return torch.stack(found, 1).double().cpu()
