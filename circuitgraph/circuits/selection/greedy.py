"""Edges taken from the logits downwards, so that each one that is taken leads to them.

The candidates are the edges into the logits. The best candidate is taken again and again, and when its writer is a new
one, the edges into that writer become candidates too. This is the published way to a circuit for information flow
routes, and for the ROC curves of MIB.
"""

from __future__ import annotations

import heapq

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.chosen import Chosen, require_count, values_by
from circuitgraph.graph.liveness import the_logits
from circuitgraph.graph.universe import Universe


def greedy_edges(scores: EdgeScores, n: int, *, by: str = "strength") -> Circuit:
    """Take n edges from the logits downwards, the best candidate first.

    Args:
        scores: Of every edge.
        n: How many edges are taken. Those of writers that nothing was taken for dangle under counterfactual ablation
            and are dropped.
        by: `strength`, `size` or `signed`. Of equal candidates the first in the order of the flat gate vector is taken.

    Returns:
        The circuit; its `selection` says how many edges were kept.

    Raises:
        ConfigurationError: More edges than there are, or fewer than none.
        UnknownNameError: No such order.

    Examples:
        >>> import numpy as np
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> found = EdgeScores.of(universe, np.arange(8.0), method="mine", direction="noising", estimates="a rank")
        >>> circuit = greedy_edges(found, 5)  # also a0.h0->logits and a0.h0->m0, but nothing into a0.h0
        >>> list(circuit), circuit.n_raw
        (['input->m0', 'input->logits', 'm0->logits'], 5)

    References:
        Hanna et al. 2024, "Have Faith in Faithfulness"; Ferrando and Voita 2024, "Information Flow Routes".
    """
    return greedy_choice(scores, n, by=by).circuit()


def greedy_choice(scores: EdgeScores, n: int, *, by: str = "strength") -> Chosen:
    """The edges that `greedy_edges` goes by, those that dangle included; its arguments and errors."""
    require_count(scores, n)
    taken = taken_from_the_logits(scores.universe, values_by(scores, by), n)
    return Chosen(scores=scores, edges=taken, selection={"rule": "greedy", "n": n, "by": by})


def taken_from_the_logits(universe: Universe, values: np.ndarray, n: int) -> np.ndarray:
    """The edges that are taken, in their order.

    Args:
        universe: The universe.
        values: What edges are taken by `[edge]`, the larger the earlier.
        n: How many.

    Returns:
        Flat edge indices `[n]`; fewer where no more lead to the logits, as with spans of positions.
    """
    readers_of = readers_of_writers(universe)
    offsets, of_edge = universe.reader_offsets.tolist(), universe.writer_of_edge.tolist()
    worth = values.tolist()
    heap: list[tuple[float, int]] = []
    is_open = [False] * universe.n_readers
    known = [False] * universe.n_writers

    def open_reader(reader: int) -> None:
        if not is_open[reader]:
            is_open[reader] = True
            for edge in range(offsets[reader], offsets[reader + 1]):
                heapq.heappush(heap, (-worth[edge], edge))

    for reader in np.flatnonzero(the_logits(universe)).tolist():
        open_reader(reader)
    taken = []
    while heap and len(taken) < n:
        _, edge = heapq.heappop(heap)
        taken.append(edge)
        writer = of_edge[edge]
        if not known[writer]:
            known[writer] = True
            for reader in readers_of[writer]:
                open_reader(reader)
    return np.array(taken, dtype=np.int64)


def readers_of_writers(universe: Universe) -> list[list[int]]:
    """The readers that serve each writer, none for embeddings `[writer]`; with spans, keys and values of those before.

    Examples:
        >>> toy = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> readers_of_writers(toy)
        [[], [0, 1, 2], [3]]
    """
    found: list[list[int]] = [[] for _ in range(universe.n_writers)]
    parts = universe.parts
    for at, part in enumerate(parts):
        for block in part.blocks:
            for place, roles in enumerate(block.readers_of.tolist()):
                if block.kind != "logits":
                    first = part.readers.start + block.first_reader
                    own = {first + role for role in roles}
                    own |= {
                        before.readers.start + block.first_reader + role
                        for before in parts[:at]
                        for role in roles
                        if block.elsewhere[role]
                    }
                    found[part.writers.start + block.first_written + place] = sorted(own)
    return found
