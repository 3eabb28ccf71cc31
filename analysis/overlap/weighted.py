"""How much of a circuit's score lies in another circuit.

Directed, as |A ∩ B| / |A| is, but each edge counts for its score in A: Σ_{e in A ∩ B} s_A(e) / Σ_{e in A} s_A(e). Two
circuits that share only weak edges have a large overlap and a small weighted one.

References:
    Hanna, Pezzelle, Belinkov 2025 (arXiv 2503.11302) weight recall by scores, and by their size.
"""

from __future__ import annotations

import numpy as np

from circuitgraph.circuits.circuit import Circuit


def weighted_recall(one: Circuit, other: Circuit, *, signed: bool = False) -> float:
    """The share of a circuit's score that another circuit keeps.

    Args:
        one: The circuit whose scores count.
        other: The circuit that is to hold its edges, of the same universe.
        signed: Add up scores as they are, not how strong edges are (see `circuitgraph.circuits.strength`). Shares may
            then lie outside 0 to 1.

    Returns:
        The share; 1 of a circuit without edges, NaN where its scores add up to 0.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> a = Circuit.from_edges(universe, {"input->logits": 6, "input->m0": -1, "m0->logits": 1})
        >>> b = Circuit.from_edges(universe, ["input->logits"])
        >>> weighted_recall(a, b), weighted_recall(b, a), weighted_recall(a, b, signed=True)
        (0.75, 1.0, 1.0)
    """
    worth = one.scores if signed else one.strengths
    if not len(worth):
        return 1.0
    total = float(worth.sum())
    return float(worth[np.isin(one.edge_ids, other.edge_ids)].sum()) / total if total else float("nan")
