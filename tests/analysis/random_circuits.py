"""Circuits whose edges crowd on a few nodes, as those of trained models do."""

from __future__ import annotations

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.universe import Universe

SMOLLM2 = Universe(family="llama", n_layers=30, n_heads=9, n_kv_heads=3)
TRACR = Universe(family="tracr", n_layers=4, n_heads=1, n_kv_heads=1, embeddings="split")
REVERSE = (
    "a3.h0->logits",
    "m2->a3.h0<q>",
    "pos->a3.h0<k>",
    "tok->a3.h0<v>",
    "m1->m2",
    "m0->m1",
    "tok->m1",
    "pos->m1",
    "a0.h0->m0",
    "tok->m0",
    "tok->a0.h0<v>",
)


def reverse_circuit() -> Circuit:
    provenance = {"model": "tracr:reverse", "task": "tracr-reverse"}
    return Circuit.from_edges(TRACR, REVERSE, ablation="zero", provenance=provenance)


def crowded_circuit(n_edges: int, *, universe: Universe = SMOLLM2, seed: int = 0) -> Circuit:
    """A circuit of about `n_edges` edges, none dangling, with positive and negative scores."""
    generator = np.random.default_rng(seed)
    weight = generator.gamma(0.25, 1, universe.n_writers)
    weight[: universe.n_embeddings] = weight.max()
    by_node = dict(zip(universe.writers, weight, strict=True))
    writers, readers = universe.endpoints(np.arange(universe.n_edges))
    taken = np.array([by_node.get(name.partition("<")[0], weight.max()) for name in universe.readers])
    scores = weight[writers] * taken[readers] * generator.gamma(0.4, 1, universe.n_edges)
    order = np.argsort(-scores)
    low, high = 1, universe.n_edges
    while low < high:
        middle = (low + high) // 2
        enough = len(Circuit.from_edges(universe, order[:middle])) >= n_edges
        low, high = (low, middle) if enough else (middle + 1, high)
    signs = generator.choice([-1.0, 1.0], low)
    kept = order[:low]
    return Circuit.from_edges(universe, kept, scores=signs * np.log1p(scores[kept]))
