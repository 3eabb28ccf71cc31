"""What a method that ranks edges has to be: a few declarations, and a score per edge.

The prompts, the objective and the ablation come in a `Probe`, the same for every method; the settings of a method are
its own fields. Declarations that settings do not change are class attributes, those that they do are properties.
`pruning.rank_edges` does the rest for all of them: it checks, runs, and puts the scores together with
where they came from into an `EdgeScores`. `pruning/methods/eap.py` is a short example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.ablations import ABLATIONS, default_ablation
from pruning.execution.probe import Probe
from pruning.prompts.encoding import EncodedPairs

RANKING_ABLATIONS = ABLATIONS
"""What cut edges may carry where edges are ranked; optimal constants are learnt first, see `Probe.frozen`."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What a method found that searches for a circuit.

    Attributes:
        scores: One finite number per edge, as of `Method.score`.
        kept: Booleans `[edge]`: the edges of its circuit, those that dangle included.
        about: What decided which they are, as JSON values, for the circuit's provenance.
    """

    scores: Float[np.ndarray, " edge"]
    kept: Bool[np.ndarray, " edge"]
    about: Mapping[str, object] = field(default_factory=dict)


@runtime_checkable
class Searcher(Method, Protocol):
    """A method that says which edges its circuit has, beside a score for each."""

    def search(self, probe: Probe, *, seed: int) -> Search:
        """Search for a circuit.

        Args:
            probe: The model and the prompts.
            seed: Of everything random.
        """
        ...

    def for_edges(self, n: int) -> Searcher:
        """The same search for a circuit of about so many edges.

        Args:
            n: How many.

        Raises:
            ConfigurationError: Its settings say another number already.
        """
        ...


@runtime_checkable
class OnePassBothWays(Searcher, Protocol):
    """A search that looks at noising and denoising in one pass, its threshold on the sum of the two rises."""

    def for_both(self) -> OnePassBothWays:
        """The search with what it compares with rises halved: over twice the prompts they are means of the two."""
        ...

    def of_both(self, found: Search) -> Search:
        """What it found, told as sums of the two rises.

        Args:
            found: What the halved search found over the pairs and the swapped pairs.
        """
        ...


@runtime_checkable
class RefusesModels(Protocol):
    """A method that cannot do with every model that can be compiled."""

    def require_model(self, compiled: CompiledModel) -> None:
        """Refuse a model that the method can make nothing of, before any work.

        Args:
            compiled: The model.

        Raises:
            UnsupportedModelError: It is one; the message says what is not known of it.
        """
        ...


def require_one_direction(method: Method, direction: str) -> None:
    """Refuse a direction of the run that does not go with the method.

    Args:
        method: The method.
        direction: The run's: `noising`, `denoising` or `both`.

    Raises:
        ConfigurationError: The method's own settings turn it round as well, or it searches for a circuit in one
            direction, and two circuits cannot be added up.
    """
    if direction == "both" and isinstance(method, Searcher) and not isinstance(method, OnePassBothWays):
        raise ConfigurationError(
            f"method {method.name!r} searches for a circuit, and those of two directions cannot be added up; search by "
            "'noising' and by 'denoising', and take the union of the two (analysis.union), or take another method"
        )
    if direction != "noising" and method.direction == "denoising":
        raise ConfigurationError(
            f"direction {direction!r} swaps the prompts, and method {method.name!r} is set to denoising itself, which "
            "restores edges in the corrupted run and asks the clean prompt's answer; give one of the two"
        )


def usual_ablation(method: Method, family: str) -> str:
    """What cut edges carry where nothing was chosen: as usual for the family, if the method can do with it.

    Args:
        method: The method.
        family: The model's family.
    """
    usual = default_ablation(family)
    return usual if usual in method.ablations else method.ablations[0]


def require_ablation(method: Method, ablation: str) -> None:
    """Refuse an ablation that a method can make nothing of.

    Args:
        method: The method.
        ablation: What cut edges are to carry.

    Raises:
        UnknownNameError: There is no such ablation.
        ConfigurationError: The method needs another.
    """
    if ablation not in RANKING_ABLATIONS:
        raise UnknownNameError.of("ablation", ablation, RANKING_ABLATIONS)
    if ablation not in method.ablations:
        raise ConfigurationError(
            f"method {method.name!r} needs {' or '.join(method.ablations)} ablation; got {ablation!r}. It goes between "
            "a prompt and its counterfactual, and constants have none"
        )
