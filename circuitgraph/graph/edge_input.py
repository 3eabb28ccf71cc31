"""Edges and scores as callers give them: names, pairs, flat indices, one boolean per edge; checked, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.universe import Universe

Edge = str | tuple[str, str]
Edges = Iterable[Edge] | Mapping[Edge, float] | np.ndarray


def index_of_edge(universe: Universe, edge: object) -> int:
    """The flat index of an edge given by name or as a pair.

    Args:
        universe: What fixes the edges.
        edge: Such as `a3.h7->m4` or `("a3.h7", "m4")`.

    Raises:
        UnknownNameError: The universe has no such edge, or this is none.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> index_of_edge(universe, "input->m0") == index_of_edge(universe, ("input", "m0"))
        True
    """
    if isinstance(edge, str):
        source, arrow, target = edge.partition("->")
        if arrow:
            return universe.edge_index(source, target)
    elif isinstance(edge, tuple) and len(edge) == 2:
        return universe.edge_index(*edge)
    raise UnknownNameError(f"{edge!r} is no edge; expected a name such as 'a3.h7->m4' or a pair ('a3.h7', 'm4')")


def read_edges(
    universe: Universe, edges: Edges, scores: Iterable[float] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and scores in the caller's order; arguments and errors as of `Circuit.from_edges`.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> ids, scores = read_edges(universe, {"m0->logits": 2.0, "input->m0": 1.0}, None)
        >>> [universe.edge_name(edge) for edge in ids.tolist()], scores.tolist()
        (['m0->logits', 'input->m0'], [2.0, 1.0])
    """
    if isinstance(edges, Mapping):
        if scores is not None:
            raise ConfigurationError("scores came twice: as the values of the mapping of edges and as `scores`")
        scores = np.array(list(edges.values()), dtype=np.float64)
    elif isinstance(edges, str):
        raise ConfigurationError(f"expected several edges, got one name; pass [{edges!r}]")
    if isinstance(edges, np.ndarray):
        ids = _ids_of_array(universe, edges)
    else:
        ids = np.array([index_of_edge(universe, edge) for edge in edges], dtype=np.int64)
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = universe.edge_name(int(unique[counts > 1][0]))
        raise ConfigurationError(f"edge {twice} comes more than once; expected each edge once")
    return ids, _checked_scores(universe, ids, scores)


def _ids_of_array(universe: Universe, edges: np.ndarray) -> np.ndarray:
    if edges.dtype == bool:
        if edges.shape != (universe.n_edges,):
            raise ConfigurationError(
                f"expected one boolean for each of {universe.n_edges} edges; got shape {edges.shape}"
            )
        return np.flatnonzero(edges)
    if edges.ndim == 1 and (edges.size == 0 or np.issubdtype(edges.dtype, np.integer)):
        ids = edges.astype(np.int64)
        outside = ids[(ids < 0) | (ids >= universe.n_edges)]
        if outside.size:
            raise UnknownNameError(f"no edge {outside[0]}; the universe's edges are 0 to {universe.n_edges - 1}")
        return ids
    if edges.ndim == 1 and edges.dtype.kind in "UO":
        return np.array([index_of_edge(universe, edge) for edge in edges.tolist()], dtype=np.int64)
    raise ConfigurationError(
        f"expected edge indices [n] or one boolean per edge; got {edges.dtype} of shape {edges.shape}. "
        "Turn gates into booleans first, e.g. gates > 0.5"
    )


def _checked_scores(universe: Universe, ids: np.ndarray, scores: Iterable[float] | np.ndarray | None) -> np.ndarray:
    if scores is None:
        return np.ones(len(ids))
    if isinstance(scores, Mapping):
        raise ConfigurationError("scores must be in the order of the edges; to give a mapping, pass it as `edges`")
    values = np.array(scores if isinstance(scores, np.ndarray) else list(scores), dtype=np.float64)
    if values.shape == (universe.n_edges,) and len(ids) != universe.n_edges:
        values = values[ids]
    if values.shape != (len(ids),):
        raise ConfigurationError(f"expected one score for each of {len(ids)} edges; got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ConfigurationError(
            f"score of edge {universe.edge_name(int(ids[bad[0]]))} is {values[bad[0]]}; scores must be finite"
        )
    return values
