"""Edge attribution patching: all edges from one clean run, one corrupted run, and one backward pass.

What would happen to a loss L if one edge carried its ablation value instead of what the writer says? To first order,

    score(w → r) = Σ_positions ⟨a_w − y_w, ∂L/∂x_r⟩

with `y_w` what the writer says in the full model, `a_w` what it says when it is ablated, `x_r` what the reader sees
before its norm, and the gradient taken in the full model. In the masked pass a reader sees
`Σ_w y_w + (1 − z)(a_w − y_w)`, so this is `−∂L/∂z` where every gate z is 1. With all gates at 1 nothing has to be
mixed, and one plain run gives all of them (`circuitgraph.forward.attribution`). A positive score says that the loss
rises without the edge: it is needed. Scores are means over the prompts.

`direction="denoising"` asks the other question: all edges carry the corrupted values, and one is restored. The gradient
is then taken in the corrupted run, with the clean prompt's answers, and a positive score says that the loss falls when
the edge is restored. The mean of both directions is the method `clean-corrupted`.

`backward` changes how gradients go back, see `circuitgraph.forward.backward_rules`: `relp` makes of this relevance
patching (RelP), `gim` gradient interaction modifications (GIM).

The loss must not be flat at the full model. A divergence between circuit and full model is: it is least there, its
gradient is 0, and so would be every score. Published EAP takes the logit difference, here `negative-logit-diff`.

Where this differs from the published code (hannamw/EAP-IG): scores are a mean over prompts, not that mean divided by
the batch size once more; a grouped key or value head has one reader, whose score is the sum over the query heads that
it serves; position embeddings are part of the writer `input`; means under mean ablation are each node's own.

References:
    Syed, Rager, Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery (arXiv 2310.10348).
    Nanda 2023, Attribution Patching: Activation Patching At Industrial Scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.errors import UnknownNameError
from circuitgraph.forward.backward_rules import RULES, rule_named
from pruning.execution.pair_runs import PairRuns
from pruning.execution.probe import Probe
from pruning.methods.answers import GoesBackByRule, answers_objective, refuse_flat
from pruning.methods.method import RANKING_ABLATIONS
from pruning.prompts.encoding import EncodedPairs

SIDES = ("noising", "denoising")


@dataclass(frozen=True, kw_only=True)
class EAP(GoesBackByRule):
    """Edge attribution patching (Syed et al. 2023).

    Attributes:
        direction: `noising`: each edge ablated in the full model; `denoising`: each restored where all are ablated.
        backward: How gradients go back: `standard`, `relp` or `gim`.

    Raises:
        UnknownNameError: No such direction or rule.

    Examples:
        >>> EAP().name, EAP().direction
        ('eap', 'noising')
    """

    name: ClassVar[str] = "eap"
    summary: ClassVar[str] = "change of the objective along each edge, to first order"
    source: ClassVar[str] = "Syed, Rager, Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery"
    cost: ClassVar[str] = "2 forward, 1 backward"

    direction: str = field(default="noising", metadata={"names": SIDES})
    backward: str = field(default="standard", metadata={"names": tuple(RULES)})

    def __post_init__(self) -> None:
        rule_named(self.backward)
        if self.direction not in SIDES:
            raise UnknownNameError.of("direction", self.direction, SIDES)

    @property
    def estimates(self) -> str:
        """What a score estimates."""
        if self.direction == "denoising":
            return "fall of the objective when the edge is restored in the corrupted run, to first order"
        return "rise of the objective when the edge is ablated, to first order"

    @property
    def ablations(self) -> tuple[str, ...]:
        """Restoring needs a run to restore in."""
        return RANKING_ABLATIONS if self.direction == "noising" else ("counterfactual",)

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """Minus the logit difference where all prompts have wrong answers, else the answer's cross-entropy.

        Args:
            pairs: The prompts.
            of_task: Not looked at: most tasks compare with the full model.
        """
        return answers_objective(pairs)

    def require(self, objective: str) -> None:
        """Refuse objectives whose gradient at the full model is 0.

        Args:
            objective: Its name.

        Raises:
            ConfigurationError: It is one of those, and edges are ablated in the full model.
        """
        if self.direction == "noising":
            refuse_flat(self.name, objective)

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Not used: nothing is random.

        Returns:
            One number per edge: what ablating it alone adds to the objective, to first order; or what restoring it
            takes off.
        """
        return probe.mean(lambda batch: self._of(PairRuns(probe, batch, rule_named(self.backward))))

    def _of(self, runs: PairRuns) -> Tensor:
        return noising(runs) if self.direction == "noising" else denoising(runs)


def noising(runs: PairRuns) -> Float[Tensor, " edge"]:
    """What ablating each edge adds to the objective of the clean run, to first order.

    Args:
        runs: One batch.
    """
    run = runs.run()
    return runs.products(run, runs.changes(run, runs.ablated))


def denoising(runs: PairRuns) -> Float[Tensor, " edge"]:
    """What restoring each edge takes off the objective of the corrupted run, to first order.

    Args:
        runs: One batch.
    """
    run = runs.run(corrupted=True)
    return runs.products(run, runs.changes(runs.clean, run), runs.teacher)


@dataclass(frozen=True, kw_only=True)
class CleanCorrupted(GoesBackByRule):
    """Mean of EAP's two directions: gradients at the clean and at the corrupted prompt (Hanna et al., code of EAP-IG).

    Attributes:
        backward: How gradients go back: `standard`, `relp` or `gim`.

    Raises:
        UnknownNameError: No such rule.

    Examples:
        >>> CleanCorrupted().ablations
        ('counterfactual',)
    """

    name: ClassVar[str] = "clean-corrupted"
    summary: ClassVar[str] = "mean of EAP's gradients at the clean and at the corrupted prompt"
    source: ClassVar[str] = "Hanna, Pezzelle, Belinkov 2024, Have Faith in Faithfulness; the method is in its code"
    cost: ClassVar[str] = "2 forward, 2 backward"
    direction = "between"
    estimates = "change of the objective between corrupted and clean along the edge, to first order"
    ablations = ("counterfactual",)

    backward: str = field(default="standard", metadata={"names": tuple(RULES)})

    def __post_init__(self) -> None:
        rule_named(self.backward)

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """Minus the logit difference where all prompts have wrong answers, else the answer's cross-entropy.

        Args:
            pairs: The prompts.
            of_task: Not looked at.
        """
        return answers_objective(pairs)

    def require(self, objective: str) -> None:
        """Take any objective: one that is flat at the full model still has a gradient at the corrupted prompt.

        Args:
            objective: Its name.
        """

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Not used: nothing is random.

        Returns:
            One number per edge.
        """
        return probe.mean(lambda batch: self._of(probe, batch))

    def _of(self, probe: Probe, batch: PairBatch) -> Tensor:
        runs = PairRuns(probe, batch, rule_named(self.backward))
        clean, corrupted = runs.run(), runs.run(corrupted=True)
        changes, teacher = runs.changes(clean, corrupted), clean.logits.detach()
        return (runs.products(clean, changes, teacher) + runs.products(corrupted, changes, teacher)) / 2
