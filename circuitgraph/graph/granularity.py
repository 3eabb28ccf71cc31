"""Universes of one architecture at several granularities: which edges of the finer become which of the coarser.

Universes of one architecture differ in three choices: embeddings `split` or `joint`, key and value readers `per_query`
head or `native`, query, key and value readers `split` or `joint`. In each the second is the coarser: several of its
edges become one.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from jaxtyping import Int

from circuitgraph.errors import GraphMismatchError
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import Universe

GRANULARITIES = {"embeddings": ("split", "joint"), "kv_heads": ("per_query", "native"), "qkv": ("split", "joint")}
"""The choices, the finer value first; nothing else may differ between universes of one architecture."""


def require_one_architecture(one: Universe, other: Universe) -> None:
    """Refuse universes of different architectures.

    Raises:
        GraphMismatchError: They differ in more than granularity; the message names the first difference.
    """
    for universe in (one, other):
        refuse_spans(universe, "a mapping from one granularity to another")
    for field in fields(Universe):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name not in GRANULARITIES and mine != theirs:
            raise GraphMismatchError(
                f"{field.name}: {mine!r} against {theirs!r}: the universes are of different architectures; only "
                f"{', '.join(GRANULARITIES)} can be made coarser"
            )


def common_refinement(one: Universe, other: Universe) -> Universe:
    """The coarsest universe in which the edges of two of one architecture are all apart.

    Args:
        one: A universe.
        other: Another.

    Returns:
        The universe with the finer of each choice.

    Raises:
        GraphMismatchError: They are of different architectures.

    Examples:
        >>> native = Universe(family="llama", n_layers=30, n_heads=9, n_kv_heads=3)
        >>> native.n_edges, common_refinement(native, replace(native, kv_heads="per_query")).n_edges
        (70651, 123211)
    """
    require_one_architecture(one, other)
    finer = {
        name: order[min(order.index(getattr(universe, name)) for universe in (one, other))]
        for name, order in GRANULARITIES.items()
    }
    return replace(one, **finer)


def coarse_edges(finer: Universe, coarser: Universe) -> Int[np.ndarray, " edge"]:
    """What becomes of every edge in a coarser universe of the same architecture.

    Args:
        finer: A universe.
        coarser: One that is coarser in some choices and finer in none, which is not checked.

    Returns:
        Flat indices of the coarser universe's edges, one for each edge of the finer `[edge]`.

    Examples:
        >>> finer = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1, kv_heads="per_query")
        >>> coarser = replace(finer, kv_heads="native")
        >>> becomes = coarse_edges(finer, coarser).tolist()
        >>> [coarser.edge_name(becomes[finer.edge_index("input", f"a0.h{head}<k>")]) for head in (0, 1)]
        ['input->a0.kv0<k>', 'input->a0.kv0<k>']
    """
    writers, readers = finer.endpoints(np.arange(finer.n_edges))
    return coarser.reader_offsets[_coarse_readers(finer, coarser)[readers]] + _coarse_writers(finer, coarser)[writers]


def _coarse_writers(finer: Universe, coarser: Universe) -> np.ndarray:
    """The coarser universe's index of every writer `[writer]`."""
    return np.maximum(np.arange(finer.n_writers) - (finer.n_embeddings - coarser.n_embeddings), 0)


def _coarse_readers(finer: Universe, coarser: Universe) -> np.ndarray:
    """The coarser universe's index of every reader `[reader]`."""
    heads = np.arange(finer.n_heads)
    kv_heads = np.arange(finer.n_kv_readers)
    if coarser.qkv == "joint":
        attention = [heads, kv_heads, kv_heads] if finer.qkv == "split" else [heads]
    else:
        shared = kv_heads // (finer.n_kv_readers // coarser.n_kv_readers)
        attention = [heads, finer.n_heads + shared, finer.n_heads + coarser.n_kv_readers + shared]
    layer = np.concatenate([*attention, [coarser.n_attention_readers]])
    starts = np.arange(coarser.n_layers) * (coarser.n_attention_readers + 1)
    return np.append((starts[:, None] + layer).ravel(), coarser.n_readers - 1)
