"""Random scores: what any method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from pruning.execution.probe import Probe
from pruning.methods.information_flow import Observed


@dataclass(frozen=True, kw_only=True)
class RandomScores(Observed):
    """A number between 0 and 1 for each edge, by the seed; it has no settings.

    Circuits of random edges of exactly another's size are drawn by `pruning.evaluation.random_circuits`.

    Examples:
        >>> RandomScores().cost
        'none'
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "a random number for each edge; a baseline"
    source: ClassVar[str] = "a baseline"
    cost: ClassVar[str] = "none"
    estimates = "nothing: a random number between 0 and 1"

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model.
            seed: Of the numbers.

        Returns:
            One number per edge.
        """
        return np.random.default_rng(seed).random(probe.compiled.universe.n_edges)
