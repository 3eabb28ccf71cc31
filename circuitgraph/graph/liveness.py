"""Which edges matter: two sweeps over the blocks, and dangling edges, on the flat gate vector.

With spans of positions, the spans' blocks are swept side by side: a head moves with its own span's query, and with the
keys and values of its own span and those before.

Under counterfactual ablation an edge counts only on a path from an input to the logits. Under zero, mean
and optimal ablation a writer without inputs still says a constant, so only edges that do not reach the
logits are dropped. `Circuit.from_edges` drops them once, for everybody.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from circuitgraph.graph.universe import Universe


def forward_reach(
    universe: Universe,
    edges: Bool[np.ndarray, " edge"],
    *,
    writers: Bool[np.ndarray, " writer"],
    readers: Bool[np.ndarray, " reader"] | None = None,
) -> tuple[Bool[np.ndarray, " reader"], Bool[np.ndarray, " writer"]]:
    """Everything behind some writers and readers, along some edges.

    Args:
        universe: The universe.
        edges: Which edges lead on.
        writers: Where to begin; not changed.
        readers: Where to begin besides; none by default.

    Returns:
        Readers and writers that are reached, those to begin with among them.

    Examples:
        >>> toy = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> value = np.arange(toy.n_edges) == toy.edge_index("input", "a0.h0<v>")
        >>> reached, said = forward_reach(toy, value, writers=toy.writer_kinds == "embedding")
        >>> [name for name, is_reached in zip(toy.writers, said) if is_reached]
        ['input', 'a0.h0']
    """
    said = writers.copy()
    reached = np.zeros(universe.n_readers, dtype=bool) if readers is None else readers.copy()
    for index in range(len(universe.without_spans.blocks)):
        before: np.ndarray | bool = False  # keys and values that are reached at spans before
        for part in universe.parts:
            if index == len(part.blocks):
                continue  # logits that nobody asks for
            block, mine = part.blocks[index], said[part.writers]
            own = reached[part.readers][block.readers]
            own |= (block.matrix(edges[part.edges]) & mine[: block.n_writers]).any(1)
            mine[block.written] |= block.fed(own | before)
            before = before | (own & block.elsewhere)
    return reached, said


def backward_reach(
    universe: Universe,
    edges: Bool[np.ndarray, " edge"],
    *,
    readers: Bool[np.ndarray, " reader"],
    within: Bool[np.ndarray, " reader"] | None = None,
) -> tuple[Bool[np.ndarray, " reader"], Bool[np.ndarray, " writer"]]:
    """Everything that some readers depend on, along some edges.

    Args:
        universe: The universe.
        edges: Which edges lead on.
        readers: Where to begin; not changed.
        within: Readers that lead on at all; all by default.

    Returns:
        Readers that are depended on, those to begin with among them, and writers.
    """
    reached = readers.copy()
    wanted = np.zeros(universe.n_writers, dtype=bool)
    for index in reversed(range(len(universe.without_spans.blocks))):
        behind: np.ndarray | bool = False  # keys and values that are wanted from spans behind
        for part in reversed(universe.parts):
            if index == len(part.blocks):
                continue
            block, mine = part.blocks[index], wanted[part.writers]
            if block.shares_scale:
                mine[block.written] = mine[block.written].any()
            serving = block.serving(mine[block.written])
            own = reached[part.readers][block.readers]
            own |= serving | behind
            behind = behind | (serving & block.elsewhere)
            leading = own if within is None else own & within[part.readers][block.readers]
            mine[: block.n_writers] |= block.matrix(edges[part.edges])[leading].any(0)
    return reached, wanted


def the_logits(universe: Universe) -> Bool[np.ndarray, " reader"]:
    """The way out, as booleans over all readers.

    Args:
        universe: The universe.
    """
    return universe.reader_kinds == "logits"


def the_sources(universe: Universe) -> Bool[np.ndarray, " writer"]:
    """The ways in, embeddings and vectors, as booleans over all writers.

    Args:
        universe: The universe.
    """
    return universe.reads_nothing


def effective_edges(universe: Universe, kept: np.ndarray, ablation: str) -> np.ndarray:
    """Drop dangling edges.

    Args:
        universe: The universe.
        kept: Booleans over the edges `[edge]`.
        ablation: `counterfactual`, `zero`, `mean` or `optimal`; decides what counts as dangling.

    Returns:
        Booleans `[edge]`, a subset of `kept`.
    """
    reaching, _ = backward_reach(universe, kept, readers=the_logits(universe))
    said = np.ones(universe.n_writers, dtype=bool)
    if ablation == "counterfactual":
        said = forward_reach(universe, kept, writers=the_sources(universe))[1]
    effective = np.zeros_like(kept)
    for part in universe.parts:
        mine, read, heard = kept[part.edges], reaching[part.readers], said[part.writers]
        for block in part.blocks:
            rows = block.matrix(mine) & read[block.readers, None] & heard[: block.n_writers]
            effective[part.edges][block.edges] = rows.ravel()
    return effective
