"""What a method that ranks edges has to be: a few declarations, and a score per edge.

The prompts, the objective and the ablation come in a `Probe`, the same for every method; the settings of a method are
its own fields. Declarations that settings do not change are class attributes, those that they do are properties.
`pruning.rank_edges` does the rest for all of them: it checks, runs, and puts the scores together with
where they came from into an `EdgeScores`. `pruning/methods/eap.py` is a short example.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from circuitgraph.graph.ablations import ABLATIONS
from pruning.execution.probe import Probe
from pruning.prompts.encoding import EncodedPairs

RANKING_ABLATIONS = tuple(name for name in ABLATIONS if name != "optimal")
"""What cut edges may carry where edges are ranked; optimal values are learnt with the gates."""


@runtime_checkable
class Method(Protocol):
    """A way to score edges: a frozen dataclass whose fields are its settings, with defaults.

    Attributes:
        name: What users call it.
        summary: What it does, in a line.
        source: Where it is from: authors, year, title.
        cost: What it takes, in forward and backward passes over the prompts.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    cost: ClassVar[str]

    @property
    def direction(self) -> str:
        """Where edges are looked at; see `circuitgraph.circuits.edge_scores.EdgeScores`."""
        ...

    @property
    def estimates(self) -> str:
        """What a score estimates, in a few words with its unit."""
        ...

    @property
    def ablations(self) -> tuple[str, ...]:
        """What cut edges may carry: some of `RANKING_ABLATIONS`."""
        ...

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> str | None:
        """What is compared where nothing was chosen; None where the method compares nothing.

        Args:
            pairs: The prompts.
            of_task: The objective of their task, where there is one.
        """
        ...

    def require(self, objective: str) -> None:
        """Refuse an objective that the method can make nothing of.

        Raises:
            ConfigurationError: It is one; the message says which would do.
        """
        ...

    def score(self, probe: Probe, *, seed: int) -> Float[np.ndarray, " edge"]:
        """Score every edge: the larger, the more it is needed.

        Args:
            probe: The model and the prompts.
            seed: Of everything random.

        Returns:
            One finite number per edge, in the order of the flat gate vector.
        """
        ...
