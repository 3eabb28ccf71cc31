"""Edge attribution patching: all edges from one clean run, one corrupted run, and one backward pass.

What would happen to a loss L if one edge carried its ablation value instead of what the writer says? To first order,

    score(w → r) = Σ_positions ⟨a_w − y_w, ∂L/∂x_r⟩

with `y_w` what the writer says in the full model, `a_w` what it says when it is ablated, `x_r` what the reader sees
before its norm, and the gradient taken in the full model. In the masked pass a reader sees
`Σ_w y_w + (1 − z)(a_w − y_w)`, so this is `−∂L/∂z` where every gate z is 1, and one masked pass gives all of them. A
positive score says that the loss rises without the edge: it is needed. Scores are means over the prompts.

The loss must not be flat at the full model. A divergence between circuit and full model is: it is least there, its
gradient is 0, and so would be every score. Published EAP takes the logit difference, here `negative-logit-diff`.

Where this differs from the published code (hannamw/EAP-IG): scores are a mean over prompts, not that mean divided by
the batch size once more; a grouped key or value head has one reader, whose score is the sum over the query heads that
it serves; position embeddings are part of the writer `input`.

References:
    Syed, Rager, Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery (arXiv 2310.10348).
    Nanda 2023, Attribution Patching: Activation Patching At Industrial Scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from circuitgraph.errors import ConfigurationError
from pruning.execution.finite import require_numbers
from pruning.execution.objectives import FLAT_AT_FULL_MODEL
from pruning.execution.probe import Probe
from pruning.prompts.encoding import EncodedPairs


@dataclass(frozen=True, kw_only=True)
class EAP:
    """Edge attribution patching (Syed et al. 2023); it has no settings.

    Examples:
        >>> EAP().name, EAP().direction
        ('eap', 'noising')
    """

    name: ClassVar[str] = "eap"
    summary: ClassVar[str] = "edge attribution patching: one clean and one corrupted run, one backward pass"
    source: ClassVar[str] = "Syed, Rager, Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery"
    direction: ClassVar[str] = "noising"
    estimates: ClassVar[str] = "rise of the objective when the edge is ablated, to first order"

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """Minus the logit difference where all prompts have wrong answers, else the answer's cross-entropy.

        Args:
            pairs: The prompts.
            of_task: Not looked at: most tasks compare with the full model.
        """
        wrong = pairs.wrong_ids
        return "negative-logit-diff" if wrong and all(len(ids) for ids in wrong) else "cross-entropy"

    def require(self, objective: str) -> None:
        """Refuse objectives whose gradient at the full model is 0.

        Args:
            objective: Its name.

        Raises:
            ConfigurationError: It is one of those.
        """
        if objective in FLAT_AT_FULL_MODEL:
            raise ConfigurationError(
                f"method 'eap' takes the objective's gradient in the full model, where that of {objective!r} is 0, so "
                "every score would be; use negative-logit-diff or cross-entropy (prompts whose answers are tokens), or "
                "the method gate-gradients, which takes gradients between the ablated and the full model"
            )

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Not used: nothing is random.

        Returns:
            One number per edge: what ablating it alone adds to the objective, to first order.
        """
        gates = probe.full_gates
        total = torch.zeros(gates.shape, dtype=torch.float64)
        for prompts in probe.batches():
            total -= probe.gradient(prompts, gates)
        require_numbers(total, probe.frozen, "scores")
        return (total / len(probe.pairs)).numpy()
