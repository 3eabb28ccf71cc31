"""What rules have in common: which values they go by, and the circuit of the edges that they chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import ORDERS, EdgeScores
from circuitgraph.circuits.strength import strengths_of
from circuitgraph.errors import ConfigurationError, UnknownNameError


def values_by(scores: EdgeScores, by: str) -> Float[np.ndarray, " edge"]:
    """What a rule goes by, the larger the better.

    Args:
        scores: Of every edge.
        by: `strength` (see `circuitgraph.circuits.strength`), `size` (|score|) or `signed` (the score).

    Raises:
        UnknownNameError: No such order.
    """
    if by not in ORDERS:
        raise UnknownNameError.of("order", by, ORDERS)
    if by == "strength":
        return strengths_of(scores.values, scores.estimates)
    return np.abs(scores.values) if by == "size" else scores.values


def require_count(scores: EdgeScores, n: int) -> None:
    """Refuse more edges than there are.

    Raises:
        ConfigurationError: n is below 0 or above the number of edges.
    """
    n_edges = scores.universe.n_edges
    if not 0 <= n <= n_edges:
        raise ConfigurationError(f"n must be 0 to {n_edges:,}, the number of edges; got {n:,}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The edges that a rule chose, those that dangle included.

    Attributes:
        scores: Of every edge.
        edges: Flat indices of the chosen ones `[n]`.
        selection: The rule with its options.
    """

    scores: EdgeScores
    edges: np.ndarray
    selection: Mapping[str, object]

    def circuit(self) -> Circuit:
        """Their circuit, less those that dangle.

        Returns:
            The circuit, with the edges' scores and the scores' provenance; `selection` there has the rule, the digest
            of the scores, and `n_kept`, how many edges were really kept.
        """
        scores, edges = self.scores, self.edges
        circuit = Circuit.from_edges(
            scores.universe, edges, scores=scores.values[edges], ablation=scores.ablation, provenance=scores.provenance
        )
        about = {**self.selection, "scores": scores.digest, "n_kept": len(circuit)}
        return circuit.with_provenance({"selection": about})
