"""From trained gates to edges, by a named rule that looks at the gates alone.

`paper` keeps as many edges as the deterministic soft mask sums to, which is what the published evaluation
does by a search over thresholds; `target` keeps as many as the target sparsity asks; `open` keeps those whose α is
above 0, for gates that are deterministic. In any way the edges
with the highest scores stay; tied edges stay or go together; frozen edges stay and removed ones go. Rules that run
the model are in `pruning.selection.faithful`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from circuitgraph.circuits.sizes import edges_left
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.gate_map import GateMap
from pruning.methods.edge_pruning.gates import Gates


def edges_to_keep(gates: Gates, *, rule: str, target_sparsity: float) -> int:
    """How many edges a rule keeps.

    Args:
        gates: Trained gates.
        rule: `paper`, `target` or `open`.
        target_sparsity: What `target` goes by; 1 and above keep nothing.

    Raises:
        UnknownNameError: No such rule.
    """
    if rule == "paper":
        return round(float(gates.soft_edges().sum()))
    if rule == "target":
        return edges_left(gates.gate_map.universe, target_sparsity)
    if rule == "open":
        return int((gates.scores() > 0).sum())
    raise UnknownNameError.of("keep rule", rule, ("paper", "target", "open"))


@torch.no_grad()
def discretize(gates: Gates, *, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the best edges of trained gates.

    Args:
        gates: Trained gates.
        keep: How many edges at most, frozen ones included. Ties are whole, so it can be fewer.

    Returns:
        As of `best_edges`.
    """
    return best_edges(gates.scores().double().cpu().numpy(), gates.gate_map, keep=keep)


def best_edges(scores: Float[np.ndarray, " edge"], gate_map: GateMap, *, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the edges with the highest scores.

    Args:
        scores: One score an edge.
        gate_map: Which edges are tied, frozen or removed.
        keep: How many edges at most, frozen ones included. Ties are whole, so it can be fewer.

    Returns:
        Flat indices of the kept edges `[n]`, and their scores `[n]`; a frozen edge gets the highest score
        of the others.
    """
    codes = gate_map.parameter_of_edge
    frozen = codes == -2
    # A tied group counts once, at its best edge's score, and stays or goes whole.
    groups = np.where(codes >= 0, codes, -1)
    trained = np.flatnonzero(codes >= 0)
    best = np.full(gate_map.n_parameters, -np.inf)
    np.maximum.at(best, groups[trained], scores[trained])
    order = np.argsort(-best, kind="stable")
    sizes = gate_map.edges_per_parameter[order]
    room = keep - int(frozen.sum())
    chosen = order[np.cumsum(sizes) <= room]
    kept_groups = np.zeros(gate_map.n_parameters + 1, dtype=bool)
    kept_groups[chosen] = True
    edges = np.flatnonzero(frozen | kept_groups[groups])
    values = scores[edges]
    finite = values[np.isfinite(values)]
    return edges, np.where(np.isfinite(values), values, finite.max() if len(finite) else 0.0)
