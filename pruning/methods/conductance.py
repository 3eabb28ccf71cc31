"""Conductance of edges: along the path of inputs, each step's change of what a writer says, times the gradient there.

EAP-IG multiplies the *whole* change of a writer with gradients averaged along the path. Where the writer's output does
not change in proportion to the input, the two do not belong together. Conductance (Dhamdhere et al. 2018) takes each
step's own change: with embeddings `e_corr + (k/m)(e_clean − e_corr)`, and y_w^(k) what the writer says in step k,

    score(w → r) = Σ_{k = 0}^{m − 1} Σ_positions ⟨y_w^(k) − y_w^(k + 1), ∂L/∂x_r at step k⟩,

where y_w^(m) is the clean run's. The scores of all edges into the logits add up to `L(corrupted) − L(clean)` as m
grows: nothing is counted twice and nothing is lost.

For edges this was proposed as CEAP (2026). Only its abstract was at hand: that the differences of activations are taken
step by step along the path is from there; the end points are those of EAP-IG, with which it is compared at equal m.

References:
    Dhamdhere, Sundararajan, Yan 2018, How Important Is a Neuron? (arXiv 1805.12233).
    Conductance-based edge attribution patching, 2026 (arXiv 2606.16920).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.attribution import Said
from pruning.execution.pair_runs import PairRuns
from pruning.methods.eap_ig import AlongAPath


@dataclass(frozen=True, kw_only=True)
class Conductance(AlongAPath):
    """Conductance of edges along the path of inputs; fields as of `AlongAPath`.

    Examples:
        >>> Conductance().name
        'conductance'
    """

    name: ClassVar[str] = "conductance"
    summary: ClassVar[str] = "each step's change of the writer times the gradient there, along EAP-IG's path"
    source: ClassVar[str] = "CEAP 2026 (arXiv 2606.16920), after Dhamdhere, Sundararajan, Yan 2018"
    cost: ClassVar[str] = "1 + m forward, m backward (m = steps)"
    estimates = "part of the objective's change from clean to corrupted that goes along the edge"

    def products(self, runs: PairRuns) -> Float[Tensor, " edge"]:
        """The scores' sum over the prompts of one batch.

        Args:
            runs: The batch.
        """
        total = torch.zeros(runs.model.universe.n_edges, dtype=torch.float64)
        after: Said = runs.clean
        for step in reversed(range(self.steps)):
            run = runs.run(instead=runs.between(step / self.steps))
            total += runs.products(run, runs.changes(after, run), runs.teacher)
            after = run
        return total
