"""What one masked pass has to run, from the gates of this very step.

A writer is *stored* if it can differ from its ablation value and something that reaches the logits reads
it; everything else is skipped, exactly. All of it is decided on the host, on flat arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitgraph.liveness import readers_reaching, readers_used, writers_reached
from circuitgraph.universe import Universe


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One reader block in one pass.

    Attributes:
        readers: Readers to run, as indices within the block.
        heads: Heads to run (attention only), as indices within the layer.
        rows: Where these readers stand among all running readers.
        n_slots: How many stored writers they see, always slots `0 … n_slots - 1`.
        slots: Where what the block writes is stored.
    """

    readers: np.ndarray
    heads: np.ndarray
    rows: slice
    n_slots: int
    slots: slice


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One whole pass.

    Attributes:
        embeddings: Embedding writers that are stored.
        blocks: A plan for every reader block of the universe.
        edges: Flat edge index of every running reader and stored writer `[row, slot]`, `n_edges` where the
            reader does not see the writer.
        n_slots: Stored writers in all.
        live_heads: Heads that run.
        live_mlps: MLPs that run.
    """

    embeddings: np.ndarray
    blocks: tuple[BlockPlan, ...]
    edges: np.ndarray
    n_slots: int
    live_heads: int
    live_mlps: int


def stored_writers(universe: Universe, active: np.ndarray, *, constant_when_dead: bool) -> np.ndarray:
    """Writers that can differ from their ablation value and that matter to the logits.

    Args:
        universe: The universe.
        active: Booleans `[edge]`: the gate is not 0, or its gradient is wanted.
        constant_when_dead: Whether a node without live inputs may still differ from its ablation value, as
            under zero and mean ablation.

    Returns:
        Booleans `[writer]`.
    """
    reaching = readers_reaching(universe, active)
    wanted = np.zeros(universe.n_writers, dtype=bool)
    for block in universe.blocks:
        rows = reaching[block.first_reader : block.first_reader + block.n_readers]
        matrix = active[block.edges].reshape(block.n_readers, block.n_writers)
        wanted[: block.n_writers] |= matrix[rows].any(0)
    return wanted if constant_when_dead else wanted & writers_reached(universe, active)


def plan_step(universe: Universe, active: np.ndarray, *, constant_when_dead: bool) -> StepPlan:
    """Decide what runs.

    Args:
        universe: The universe.
        active: Booleans `[edge]`: the gate is not 0, or its gradient is wanted.
        constant_when_dead: See `stored_writers`.

    Returns:
        The plan.
    """
    stored = stored_writers(universe, active, constant_when_dead=constant_when_dead)
    slots_before = np.concatenate([[0], np.cumsum(stored)])
    writer_of_slot = np.flatnonzero(stored)
    blocks: list[BlockPlan] = []
    edges: list[np.ndarray] = []
    row = 0
    nothing = np.zeros(0, dtype=np.int64)
    live_heads = live_mlps = 0
    for block in universe.blocks:
        heads, slots = nothing, slice(0, 0)
        if block.kind == "logits":
            readers = np.array([0])
        elif block.kind == "mlp":
            writer = universe.mlp_writer(block.layer)
            readers = np.flatnonzero(stored[[writer]])
            slots = slice(int(slots_before[writer]), int(slots_before[writer + 1]))
            live_mlps += len(readers)
        else:
            first = universe.first_head(block.layer)
            running = stored[first : first + universe.n_heads]
            heads = np.flatnonzero(running)
            readers = np.flatnonzero(readers_used(universe, running))
            slots = slice(int(slots_before[first]), int(slots_before[first + universe.n_heads]))
            live_heads += len(heads)
        rows = slice(row, row + len(readers))
        row = rows.stop
        visible = int(slots_before[block.n_writers])
        index = np.full((len(readers), len(writer_of_slot)), universe.n_edges, dtype=np.int64)
        index[:, :visible] = (
            block.first_edge + readers[:, None] * block.n_writers + writer_of_slot[None, :visible]
        )
        edges.append(index)
        blocks.append(BlockPlan(readers=readers, heads=heads, rows=rows, n_slots=visible, slots=slots))
    return StepPlan(
        embeddings=np.flatnonzero(stored[: universe.n_embeddings]),
        blocks=tuple(blocks),
        edges=np.concatenate(edges),
        n_slots=len(writer_of_slot),
        live_heads=live_heads,
        live_mlps=live_mlps,
    )
