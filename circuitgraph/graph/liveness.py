"""Which edges matter: dangling edges, found on the flat gate vector without building a graph.

Under counterfactual ablation an edge counts only on a path from an input to the logits. Under zero, mean
and optimal ablation a writer without inputs still says a constant, so only edges that do not reach the
logits are dropped. `Circuit.from_edges` drops them once, for everybody.
"""

from __future__ import annotations

import numpy as np

from circuitgraph.graph.universe import Universe


def _reader_rows(universe: Universe, kept: np.ndarray, block_index: int) -> np.ndarray:
    block = universe.blocks[block_index]
    return kept[block.edges].reshape(block.n_readers, block.n_writers)


def heads_fed(universe: Universe, readers: np.ndarray) -> np.ndarray:
    """Heads fed by at least one of some readers of their layer.

    Args:
        universe: The universe.
        readers: Booleans over one attention layer's readers `[reader]`.

    Returns:
        Booleans over the layer's heads `[head]`.
    """
    fed = readers[: universe.n_heads].copy()
    n_kv = universe.n_kv_readers
    if n_kv:
        kv = readers[universe.n_heads :].reshape(2, n_kv).any(0)
        fed |= np.repeat(kv, universe.n_heads // n_kv)
    return fed


def readers_used(universe: Universe, heads: np.ndarray) -> np.ndarray:
    """Readers that feed at least one of some heads of their layer.

    Args:
        universe: The universe.
        heads: Booleans over one layer's heads `[head]`.

    Returns:
        Booleans over the layer's readers `[reader]`.
    """
    n_kv = universe.n_kv_readers
    if not n_kv:
        return heads.copy()
    groups = heads.reshape(n_kv, -1).any(1)
    return np.concatenate([heads, groups, groups])


def writers_reached(universe: Universe, kept: np.ndarray) -> np.ndarray:
    """Writers on a path of kept edges from an embedding.

    Args:
        universe: The universe.
        kept: Booleans over the edges `[edge]`.

    Returns:
        Booleans `[writer]`.
    """
    reached = np.zeros(universe.n_writers, dtype=bool)
    reached[: universe.n_embeddings] = True
    for index, block in enumerate(universe.blocks[:-1]):
        live = np.asarray((_reader_rows(universe, kept, index) & reached[: block.n_writers]).any(1))
        if block.kind == "attention":
            first = universe.first_head(block.layer)
            reached[first : first + universe.n_heads] = heads_fed(universe, live)
        else:
            reached[universe.mlp_writer(block.layer)] = live[0]
    return reached


def readers_reaching(universe: Universe, kept: np.ndarray) -> np.ndarray:
    """Readers on a path of kept edges to the logits.

    Args:
        universe: The universe.
        kept: Booleans over the edges `[edge]`.

    Returns:
        Booleans `[reader]`.
    """
    reaching = np.zeros(universe.n_readers, dtype=bool)
    wanted = np.zeros(universe.n_writers, dtype=bool)
    for index in reversed(range(len(universe.blocks))):
        block = universe.blocks[index]
        if block.kind == "logits":
            used = np.array([True])
        elif block.kind == "mlp":
            used = wanted[[universe.mlp_writer(block.layer)]]
        else:
            first = universe.first_head(block.layer)
            used = readers_used(universe, wanted[first : first + universe.n_heads])
        reaching[block.first_reader : block.first_reader + block.n_readers] = used
        wanted[: block.n_writers] |= _reader_rows(universe, kept, index)[used].any(0)
    return reaching


def effective_edges(universe: Universe, kept: np.ndarray, ablation: str) -> np.ndarray:
    """Drop dangling edges.

    Args:
        universe: The universe.
        kept: Booleans over the edges `[edge]`.
        ablation: `counterfactual`, `zero`, `mean` or `optimal`; decides what counts as dangling.

    Returns:
        Booleans `[edge]`, a subset of `kept`.
    """
    reaching = readers_reaching(universe, kept)
    reached = writers_reached(universe, kept) if ablation == "counterfactual" else None
    effective = np.zeros_like(kept)
    for index, block in enumerate(universe.blocks):
        rows = _reader_rows(universe, kept, index)
        rows = rows & reaching[block.first_reader : block.first_reader + block.n_readers, None]
        if reached is not None:
            rows = rows & reached[: block.n_writers]
        effective[block.edges] = rows.ravel()
    return effective
