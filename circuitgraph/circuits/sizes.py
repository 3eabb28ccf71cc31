"""The sizes at which rankings of edges are cut to be compared."""

from __future__ import annotations

from collections.abc import Sequence

from circuitgraph.graph.universe import Universe

MIB_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which the Mechanistic Interpretability Benchmark (arXiv 2504.13151) cuts a ranking."""


def edges_of_sizes(n_edges: int, sizes: Sequence[float] = MIB_SIZES) -> list[int]:
    """How many edges each size keeps, before dangling ones are dropped: rounded down, as in the benchmark.

    Args:
        n_edges: All edges of the universe.
        sizes: Shares of them.

    Examples:
        >>> edges_of_sizes(32_491)
        [32, 64, 162, 324, 649, 1624, 3249, 6498, 16245, 32491]
    """
    return [int(size * n_edges) for size in sizes]


def edges_left(universe: Universe, sparsity: float) -> int:
    """How many edges a sparsity leaves, before dangling ones are dropped.

    Args:
        universe: The universe.
        sparsity: The share of its edges to cut; 1 and above leave none.

    Examples:
        >>> edges_left(Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12), 0.98)
        650
    """
    return max(0, round((1 - sparsity) * universe.n_edges))
