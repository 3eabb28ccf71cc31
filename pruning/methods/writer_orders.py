"""In which order ACDC tries the writers of a reader."""

from __future__ import annotations

import numpy as np

from circuitgraph.graph.universe import Universe

ORDERS = ("reverse", "heads-forward", "random")


def writer_orders(universe: Universe, order: str, seed: int) -> dict[int, np.ndarray]:
    """For each number of writers that a reader may see, in which order they are tried.

    Args:
        universe: Which edges there are.
        order: One of `ORDERS`.
        seed: Of the drawn order.
    """
    layers, generator = universe.writer_layers, np.random.default_rng(seed)
    is_mlp = universe.writer_kinds == "mlp"
    found = {}
    for n in sorted({block.n_writers for block in universe.blocks}):
        writers = np.arange(n)
        if order == "reverse":
            found[n] = writers[::-1].copy()
        elif order == "heads-forward":
            found[n] = np.lexsort((writers, ~is_mlp[:n], -layers[:n]))
        else:
            found[n] = generator.permutation(n)
    return found
