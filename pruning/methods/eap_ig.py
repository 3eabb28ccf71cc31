"""EAP with integrated gradients: the gradient is taken along a way from the corrupted prompt to the clean one.

In the full model a gradient may be 0 though the edge matters: an activation or a softmax is saturated, or the objective
is least there. So it is averaged along a path. Two paths are published:

- over *inputs* (`eap-ig`): in step k = 0 … m − 1 the embeddings are `e_corr + (k/m)(e_clean − e_corr)`, and everything
  else is computed from them;

      score(w → r) = (1/m) Σ_k Σ_positions ⟨y_w(corrupted) − y_w(clean), ∂L/∂x_r at step k⟩;

- over *activations* (`eap-ig-activations`): one place after the other (the embeddings, all heads of a layer together,
  an MLP) says `y_corr + (k/m)(y_clean − y_corr)`, k = 1 … m, while everything else is computed from the clean prompt;
  products of all edges, not of those of that place alone, are added up and divided by m (1 + 2 · layers).

Steps and end points are those of the published code (hannamw/EAP-IG): over inputs the corrupted end is among the steps
and the clean one is not, over activations the other way round. The step k = 0 over inputs is the corrupted run, so what
writers say there is taken from it. Other differences are EAP's, see `pruning.methods.eap`.

References:
    Hanna, Pezzelle, Belinkov 2024, Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model
    Mechanisms (arXiv 2403.17806).
    Sundararajan, Taly, Yan 2017, Axiomatic Attribution for Deep Networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.attribution import Said
from circuitgraph.forward.backward_rules import RULES, rule_named
from circuitgraph.forward.full_run import Instead
from pruning.execution.pair_runs import PairRuns
from pruning.execution.probe import Probe
from pruning.methods.answers import GoesBackByRule, path_objective, refuse_flat
from pruning.prompts.encoding import EncodedPairs
from pruning.whole_numbers import whole_number


@dataclass(frozen=True, kw_only=True)
class AlongAPath(GoesBackByRule):
    """What methods with a path from the corrupted to the clean prompt have in common.

    Attributes:
        steps: Steps of the path.
        backward: How gradients go back: `standard`, `relp` or `gim`.

    Raises:
        ConfigurationError: `steps` is no whole number of at least 1.
        UnknownNameError: No such rule.
    """

    direction = "between"
    ablations = ("counterfactual",)

    steps: int = field(default=5, metadata={"least": 1})
    backward: str = field(default="standard", metadata={"names": tuple(RULES)})

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_number("steps", self.steps, least=1))
        rule_named(self.backward)

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str:
        """As of EAP, or the squared error where answers are numbers.

        Args:
            pairs: The prompts.
            of_task: Not looked at.
        """
        return path_objective(pairs)

    def require(self, objective: str) -> None:
        """Take any objective: the path leads beside the full model.

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
        return probe.mean(lambda batch: self.products(PairRuns(probe, batch, rule_named(self.backward))))

    def products(self, runs: PairRuns) -> Float[Tensor, " edge"]:
        """The scores' sum over the prompts of one batch.

        Args:
            runs: The batch.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class EAPIG(AlongAPath):
    """EAP with integrated gradients over inputs (Hanna et al. 2024); fields as of `AlongAPath`.

    Examples:
        >>> EAPIG(steps=3).steps, EAPIG().direction
        (3, 'between')
    """

    name: ClassVar[str] = "eap-ig"
    summary: ClassVar[str] = "EAP with gradients averaged along a path of embeddings from corrupted to clean"
    source: ClassVar[str] = "Hanna, Pezzelle, Belinkov 2024, Have Faith in Faithfulness"
    cost: ClassVar[str] = "1 + m forward, m backward (m = steps)"
    estimates = "rise of the objective when the edge is ablated, by gradients along the path of inputs"

    def products(self, runs: PairRuns) -> Float[Tensor, " edge"]:
        """The scores' sum over the prompts of one batch.

        Args:
            runs: The batch.
        """
        total, changes = torch.zeros(runs.model.universe.n_edges, dtype=torch.float64), None
        for step in range(self.steps):
            run = runs.run(instead=runs.between(step / self.steps))
            changes = runs.changes(runs.clean, run) if changes is None else changes  # the first step is corrupted
            total += runs.products(run, changes, runs.teacher)
        return total / self.steps


@dataclass(frozen=True, kw_only=True)
class EAPIGActivations(AlongAPath):
    """EAP with integrated gradients over activations (code of EAP-IG); fields as of `AlongAPath`.

    Examples:
        >>> EAPIGActivations().steps
        5
    """

    name: ClassVar[str] = "eap-ig-activations"
    summary: ClassVar[str] = "EAP with gradients averaged along paths of one place's activations after the other"
    source: ClassVar[str] = "Hanna, Pezzelle, Belinkov 2024, Have Faith in Faithfulness; the method is in its code"
    cost: ClassVar[str] = "2 + m (1 + 2 layers) forward, m (1 + 2 layers) backward (m = steps)"
    estimates = "rise of the objective when the edge is ablated, by gradients along paths of activations"

    def require(self, objective: str) -> None:
        """Refuse objectives that are flat at the full model where the only step is there.

        Args:
            objective: Its name.

        Raises:
            ConfigurationError: It is one of those, and there is one step.
        """
        if self.steps == 1:
            refuse_flat(f"{self.name} with steps=1", objective)

    def products(self, runs: PairRuns) -> Float[Tensor, " edge"]:
        """The scores' sum over the prompts of one batch.

        Args:
            runs: The batch.
        """
        changes = runs.changes(runs.clean, runs.ablated)
        total, n_runs = torch.zeros(runs.model.universe.n_edges, dtype=torch.float64), 0
        for step in range(1, self.steps + 1):
            for instead in one_place_each(runs.clean, runs.ablated, step / self.steps):
                total += runs.products(runs.run(instead=instead), changes, runs.teacher)
                n_runs += 1
        return total / n_runs


def one_place_each(clean: Said, corrupted: Said, share: float) -> Iterator[Instead]:
    """Runs in which one place says something on the line from corrupted to clean: embeddings, each layer's heads, MLPs.

    Args:
        clean: What writers say on the clean prompts.
        corrupted: What they say on the counterfactuals.
        share: 0 for the counterfactuals', 1 for the clean prompts'.
    """

    def mixed(ours: Tensor, theirs: Tensor) -> Tensor:
        return theirs + share * (ours - theirs)

    pairs = zip(clean.embeddings, corrupted.embeddings, strict=True)
    yield Instead(embeddings=tuple(mixed(*pair) for pair in pairs))
    for layer in range(len(clean.heads)):
        yield Instead(heads={layer: mixed(clean.heads[layer], corrupted.heads[layer])})
        yield Instead(mlps={layer: mixed(clean.mlps[layer], corrupted.mlps[layer])})
