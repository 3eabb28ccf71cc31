"""Circuits made of the rankings of several seeds: what most of them keep, and what their averaged scores keep.

Two seeds of one training agree on the edges that matter most and differ in the others. What they agree on is found in
two ways, each with a circuit as large as those of the seeds:

- `consensus_circuit`: edges by how many seeds keep them; among those that as many keep, by their averaged score;
- `averaged_circuit`: edges by their averaged score alone. Scores are standardised seed by seed first, over all edges
  that are trained, so that no seed counts for more because its scores lie further apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.parentage import parentage
from circuitgraph.graph.gate_map import GateMap
from pruning.selection.best import best_edges

CONSENSUS, AVERAGED, SEED = "consensus", "averaged", "seed"
"""Which circuit: one of these."""


def averaged_scores(scores: Sequence[Float[np.ndarray, " edge"]]) -> Float[np.ndarray, " edge"]:
    """The mean of several rankings' standardised scores.

    Args:
        scores: Of each seed, one score an edge; infinite where an edge was removed or frozen.

    Returns:
        One score an edge: how many standard deviations above the mean of all trained edges, on average over seeds.

    Examples:
        >>> one, other = np.array([0.0, 2.0, np.inf]), np.array([30.0, 10.0, np.inf])
        >>> averaged_scores([one, one, other]).round(3).tolist()
        [-0.333, 0.333, inf]
    """
    total = np.zeros_like(scores[0])
    for one in scores:
        trained = np.isfinite(one)
        spread = one[trained].std() if trained.any() else 0.0
        centre = one[trained].mean() if trained.any() else 0.0
        total += np.where(trained, (one - centre) / max(float(spread), 1e-12), one)
    return total / len(scores)


def averaged_circuit(scores: Float[np.ndarray, " edge"], gate_map: GateMap, members: Sequence[Circuit]) -> Circuit:
    """The circuit of the edges with the highest averaged scores, as many as the seeds' circuits had been cut to.

    Args:
        scores: As of `averaged_scores`.
        gate_map: Which edges are tied, frozen or removed.
        members: The seeds' circuits.
    """
    n_edges = round(float(np.mean([circuit.n_raw for circuit in members])))
    edges, values = best_edges(scores, gate_map, keep=n_edges)
    about = {**parentage("averaged scores", members), "score_meaning": "mean of the seeds' standardised scores"}
    return _circuit(members[0], edges, values, about)


def consensus_circuit(scores: Float[np.ndarray, " edge"], gate_map: GateMap, members: Sequence[Circuit]) -> Circuit:
    """The circuit of the edges that most seeds keep, no larger than the seeds' circuits are on average.

    Edges that dangle without the others are dropped, and not counted: so it has as many edges as the seeds' circuits
    on average, or one or a few less where the next edge would bring others with it.

    Args:
        scores: As of `averaged_scores`; they decide among edges that as many seeds keep.
        gate_map: Which edges are tied, frozen or removed.
        members: The seeds' circuits.
    """
    counts = np.sum([circuit.mask for circuit in members], axis=0)
    wanted = round(float(np.mean([len(circuit) for circuit in members])))
    order = np.empty(len(scores))
    order[np.argsort(scores, kind="stable")] = np.arange(len(scores)) / len(scores)
    codes = gate_map.parameter_of_edge
    ranked = np.where(np.isfinite(scores), counts + order, scores)
    about = {**parentage("consensus of seeds", members), "score_meaning": "share of the seeds that keep it"}

    def cut(keep: int) -> Circuit:
        edges, _ = best_edges(ranked, gate_map, keep=keep)
        return _circuit(members[0], edges, counts[edges] / len(members), about)

    # The more edges are kept, the fewer of them dangle: the size grows with `keep`, and the cut is found by bisection.
    low, high = 0, int(np.sum((counts > 0) | (codes == -2)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(cut(middle)) <= wanted else (low, middle - 1)
    return cut(low)


def _circuit(like: Circuit, edges: np.ndarray, scores: np.ndarray, about: dict[str, object]) -> Circuit:
    return Circuit.from_edges(like.universe, edges, scores=scores, ablation=like.ablation, provenance=about)
