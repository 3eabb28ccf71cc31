"""From edge scores to a circuit: the edges with the largest scores."""

from __future__ import annotations

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError


def top_edges(scores: EdgeScores, n: int, *, by: str = "strength") -> Circuit:
    """Keep the first edges, less those that dangle without the others.

    Args:
        scores: Of every edge.
        n: How many edges, before dangling ones are dropped.
        by: `strength`, `size` or `signed`; see `EdgeScores.order`. Of equal scores the first in the order of the flat
            gate vector stays.

    Returns:
        The circuit, with the edges' scores and the scores' provenance. Its `selection` says the rule; `sparsity` how
        many edges are left.

    Raises:
        ConfigurationError: More edges than there are, or fewer than none.
        UnknownNameError: No such order.

    Examples:
        >>> import numpy as np
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> values = np.arange(8.0)
        >>> found = EdgeScores.of(universe, values, method="mine", direction="noising", estimates="a rank")
        >>> circuit = top_edges(found, 5)
        >>> list(circuit), circuit.sparsity["n_raw"]
        (['input->m0', 'input->logits', 'm0->logits'], 5)
    """
    n_edges = scores.universe.n_edges
    if not 0 <= n <= n_edges:
        raise ConfigurationError(f"n must be 0 to {n_edges:,}, the number of edges; got {n:,}")
    chosen = scores.order(by=by)[:n]
    selection = {"rule": "top", "n": n, "by": by, "scores": scores.digest}
    return Circuit.from_edges(
        scores.universe,
        chosen,
        scores=scores.values[chosen],
        ablation=scores.ablation,
        provenance={**scores.provenance, "selection": selection},
    )
