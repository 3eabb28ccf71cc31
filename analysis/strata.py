"""Strata: edges grouped by layer and kind of both ends and counted in closed form; nodes by layer and kind.

Edges of one stratum join the same two layers, in the same way: from its heads, say, into its queries. The
sizes follow from the universe's prefixes, so they cost nothing, whatever the number of edges; tables of
sparsity and the stratified null model are sums over them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitgraph.graph.part import part_of_readers, part_of_writers
from circuitgraph.graph.universe import Universe


@dataclass(frozen=True, kw_only=True)
class Strata:
    """Groups of writers and of readers, and how many edges join each two; with spans, at each span its own groups.

    Attributes:
        group_of_writer: Group of every writer `[writer]`.
        group_of_reader: Group of every reader `[reader]`.
        writer_layers: Layer of every writer group; -1 for embeddings `[writer_group]`.
        writer_kinds: `embedding`, `head` or `mlp` `[writer_group]`.
        reader_layers: Layer of every reader group; `n_layers` for the logits `[reader_group]`.
        reader_kinds: `q`, `k`, `v`, `qkv`, `mlp` or `logits` `[reader_group]`.
        sizes: Edges of the universe in every stratum `[writer_group reader_group]`.
    """

    group_of_writer: np.ndarray
    group_of_reader: np.ndarray
    writer_layers: np.ndarray
    writer_kinds: np.ndarray
    reader_layers: np.ndarray
    reader_kinds: np.ndarray
    sizes: np.ndarray

    def counts(self, universe: Universe, edges: np.ndarray) -> np.ndarray:
        """How many of some edges lie in every stratum.

        Args:
            universe: The universe that the strata are of.
            edges: Flat edge indices `[n]`.

        Returns:
            Counts `[writer_group reader_group]`.
        """
        writers, readers = universe.endpoints(edges)
        flat = self.group_of_writer[writers] * self.sizes.shape[1] + self.group_of_reader[readers]
        return np.bincount(flat, minlength=self.sizes.size).reshape(self.sizes.shape)


def strata(universe: Universe) -> Strata:
    """Group a universe's writers and readers by layer and kind, and count the edges between groups.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> groups = strata(universe)
        >>> groups.writer_kinds.tolist(), groups.reader_kinds.tolist()
        (['embedding', 'head', 'mlp'], ['q', 'k', 'v', 'mlp', 'logits'])
        >>> groups.sizes
        array([[2, 2, 2, 1, 1],
               [0, 0, 0, 2, 2],
               [0, 0, 0, 0, 1]])
    """
    of_writer, first_writers = _runs(universe.writer_layers, universe.writer_kinds)
    of_reader, first_readers = _runs(universe.reader_layers, universe.reader_kinds)
    n_visible = np.diff(universe.reader_offsets)[first_readers]
    # Prefixes end where groups end: readers see a group of writers whole or not at all, and those of their span alone.
    spans = part_of_writers(universe.parts)[first_writers]
    within = first_writers - np.array([part.writers.start for part in universe.parts])[spans]
    sees = (within[:, None] < n_visible) & (spans[:, None] == part_of_readers(universe.parts)[first_readers])
    return Strata(
        group_of_writer=of_writer,
        group_of_reader=of_reader,
        writer_layers=universe.writer_layers[first_writers],
        writer_kinds=universe.writer_kinds[first_writers],
        reader_layers=universe.reader_layers[first_readers],
        reader_kinds=universe.reader_kinds[first_readers],
        sizes=sees * np.bincount(of_writer)[:, None] * np.bincount(of_reader),
    )


def node_groups(universe: Universe, writers: np.ndarray, readers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layers and kinds of the nodes among some writers and readers; an MLP that is both counts once.

    Args:
        universe: The universe.
        writers: Indices of different writers `[n]`.
        readers: Indices of different readers `[m]`.

    Returns:
        Layers and kinds `[node]`, each at most n + m long.
    """
    mlps = writers[universe.writer_kinds[writers] == "mlp"]
    there = part_of_writers(universe.parts)[mlps] * universe.n_layers + universe.writer_layers[mlps]
    here = part_of_readers(universe.parts)[readers] * universe.n_layers + universe.reader_layers[readers]
    twice = (universe.reader_kinds[readers] == "mlp") & np.isin(here, there)
    readers = readers[~twice]
    return (
        np.concatenate([universe.writer_layers[writers], universe.reader_layers[readers]]),
        np.concatenate([universe.writer_kinds[writers], universe.reader_kinds[readers]]),
    )


def _runs(layers: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number every run of equal layer and kind, and say where each begins."""
    starts = np.ones(len(layers), dtype=bool)
    starts[1:] = (layers[1:] != layers[:-1]) | (kinds[1:] != kinds[:-1])
    return np.cumsum(starts) - 1, np.flatnonzero(starts)
