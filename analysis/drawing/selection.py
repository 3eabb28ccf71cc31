"""Which edges of a large circuit to draw: the strongest, and what joins them to the input and the logits.

1. For every node find the best way in from an embedding and the best way out to the logits, where a way is
   as good as its weakest edge (widest paths; the graph has no cycles, so one sweep each way does).
2. Go through the edges, strongest first, and take each together with its ways in and out, as long as the
   total stays within the limit. Where edges are of several classes (shared, only A, only B), the class of
   which the fewest are drawn is next, so that each has its part.

So no drawn edge dangles, unless the circuit's own ablation lets writers without inputs stand.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

import networkx as nx
import numpy as np

from circuitgraph.circuits.circuit import Circuit

Edge = tuple[str, str]


def strongest_edges(
    circuit: Circuit,
    max_edges: int,
    *,
    strengths: Sequence[float] | np.ndarray | None = None,
    classes: Sequence[int] | np.ndarray | None = None,
) -> list[int]:
    """Choose the edges to draw.

    Args:
        circuit: The circuit.
        max_edges: How many at most.
        strengths: How strong each edge is, not below 0 `[kept]`; by default the circuit's own `strengths`.
        classes: Of which class each edge is `[kept]`; by default they are all of one.

    Returns:
        Places in `circuit.edge_ids`, ascending; all of them if they fit.
    """
    if len(circuit) <= max_edges:
        return list(range(len(circuit)))
    sizes = np.asarray(circuit.strengths if strengths is None else strengths, dtype=np.float64).tolist()
    of_class = [0] * len(circuit) if classes is None else np.asarray(classes).tolist()
    graph = circuit.graph
    for edge, size in zip(circuit.edges, sizes, strict=True):
        graph.edges[edge]["strength"] = size
    way_in, way_out = _best_ways(graph), _best_ways(graph.reverse(copy=False))
    place = {edge: index for index, edge in enumerate(circuit.edges)}
    waiting: dict[int, deque[int]] = {}
    for index in sorted(range(len(circuit)), key=lambda index: (-sizes[index], index)):
        waiting.setdefault(of_class[index], deque()).append(index)
    chosen: set[int] = set()
    n_drawn: Counter[int] = Counter(dict.fromkeys(waiting, 0))
    while waiting:
        name = min(waiting, key=lambda one: (n_drawn[one], one))
        index = waiting[name].popleft()
        if not waiting[name]:
            del waiting[name]
        source, target = circuit.edges[index]
        before = [(u, v) for v, u in _follow(way_in, source)]
        joined = {index, *(place[edge] for edge in (*before, *_follow(way_out, target)) if edge in place)} - chosen
        if len(chosen) + len(joined) <= max_edges:
            chosen |= joined
            n_drawn.update(of_class[one] for one in joined)
    return sorted(chosen)


def shared_strengths(whole: Circuit, circuits: Sequence[Circuit]) -> np.ndarray:
    """How strong the edges of several circuits' union are, each circuit's strengths as shares of its largest.

    Args:
        whole: The union.
        circuits: The circuits.

    Returns:
        The larger share for edges that several keep `[kept]`.
    """
    shares = np.zeros(len(whole))
    for circuit in circuits:
        own = circuit.strengths
        place = np.searchsorted(whole.edge_ids, circuit.edge_ids)
        is_there = place < len(whole)
        is_there[is_there] = whole.edge_ids[place[is_there]] == circuit.edge_ids[is_there]
        share = own / own.max() if own.any() else own
        shares[place[is_there]] = np.maximum(shares[place[is_there]], share[is_there])
    return shares


def kept_by(whole: Circuit, circuits: Sequence[Circuit]) -> np.ndarray:
    """Which circuits keep which edges of their union, as bits of a number: the classes of a membership drawing.

    Args:
        whole: The union.
        circuits: The circuits.

    Returns:
        `[kept]`, the sum of 2^n over the circuits that keep an edge, the first being n = 0.
    """
    classes = np.zeros(len(whole), dtype=np.int64)
    for n, one in enumerate(circuits):
        classes += np.isin(whole.edge_ids, one.edge_ids).astype(np.int64) << n
    return classes


def _best_ways(graph: nx.DiGraph) -> dict[str, str]:
    """For every node the neighbour before it on the widest path from a node without predecessors."""
    width: dict[str, float] = {}
    best: dict[str, str] = {}
    for node in nx.topological_sort(graph):
        width[node] = -1.0 if graph.pred[node] else math.inf
        for before, _, strength in graph.in_edges(node, data="strength"):
            # A structural edge has no score and narrows nothing.
            reach = min(width[before], math.inf if strength is None else strength)
            if reach > width[node]:
                width[node], best[node] = reach, before
    return best


def _follow(best: dict[str, str], node: str) -> list[Edge]:
    """Steps `(node, neighbour)` from a node to the end of its best way."""
    steps = []
    while node in best:
        steps.append((node, best[node]))
        node = best[node]
    return steps
