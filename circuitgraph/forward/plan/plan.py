"""What one masked pass has to run, from the gates of this very step.

A writer is *stored* if it can differ from its ablation value and something that reaches the logits reads
it; everything else is skipped, exactly. What runs, runs at one of three sets of cells (see
`circuitgraph.forward.plan.cells`), its *level*:

- `asked` if nothing that is needed elsewhere reads it, so that no key and no value depends on it;
- else `local` if no attention feeds it;
- else `reached`.

Each level has a stream of its own: the readers of that level, and the writers that they read. All of it is
decided on the host, on flat arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from circuitgraph.graph.liveness import heads_fed, readers_reaching, readers_used, writers_reached
from circuitgraph.graph.universe import ReaderBlock, Universe

LEVELS = ("local", "reached", "asked")
_LOCAL, _REACHED, _ASKED, _NOWHERE = 0, 1, 2, -1


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One reader block in one stream.

    Attributes:
        readers: Readers to run, as indices within the block.
        rows: Where these readers stand among all running readers of the stream.
        n_slots: How many of the stream's writers they see, always slots `0 … n_slots - 1`.
        writers: Which of the block's writers the stream stores, as indices within the block.
        slots: Where they are stored.
        differentiable: Whether a wanted gate lies at these readers or before them.
    """

    readers: np.ndarray
    rows: slice
    n_slots: int
    writers: np.ndarray
    slots: slice
    differentiable: bool


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """The readers of one level, and what they read.

    Attributes:
        blocks: A plan for every reader block of the universe.
        embeddings: Embedding writers that are stored, in slots `0 … len(embeddings) - 1`.
        edges: Flat edge index of every running reader and stored writer `[row, slot]`, `n_edges` where the
            reader does not see the writer.
        n_slots: Stored writers.
    """

    blocks: tuple[BlockPlan, ...]
    embeddings: np.ndarray
    edges: np.ndarray
    n_slots: int


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One whole pass.

    Attributes:
        streams: The streams that have readers, by level.
        heads: For each layer, the heads that run at a level, as indices within the layer.
        mlps: For each layer, the level at which its MLP runs, or None.
        live_heads: Heads that run.
        live_mlps: MLPs that run.
    """

    streams: dict[str, StreamPlan]
    heads: tuple[dict[str, np.ndarray], ...]
    mlps: tuple[str | None, ...]
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
        wanted[: block.n_writers] |= _matrix(block, active)[rows].any(0)
    return wanted if constant_when_dead else wanted & writers_reached(universe, active)


def plan_step(
    universe: Universe,
    active: np.ndarray,
    wanted: np.ndarray,
    *,
    constant_when_dead: bool,
    run_dead_readers: bool = True,
    local: bool = False,
) -> StepPlan:
    """Decide what runs, and where.

    Args:
        universe: The universe.
        active: Booleans `[edge]`: the gate is not 0, or its gradient is wanted.
        wanted: Booleans `[edge]`: the gradient is wanted.
        constant_when_dead: See `stored_writers`.
        run_dead_readers: Whether a live head's readers without live edges run; not needed where the ablated
            run's queries, keys and values are at hand.
        local: Whether local cells are told apart.

    Returns:
        The plan.
    """
    stored = stored_writers(universe, active, constant_when_dead=constant_when_dead)
    sweep = _Sweep(universe, active, wanted, stored)
    running = sweep.running_readers(run_dead_readers)
    everywhere = sweep.needed_everywhere(running)
    level, gradient = sweep.levels(running, everywhere, local)
    streams = {}
    for index, name in enumerate(LEVELS):
        rows = level == index
        if rows.any():
            streams[name] = sweep.stream(rows, gradient)
    heads, mlps = [], []
    for layer in range(universe.n_layers):
        first, mlp = universe.first_head(layer), universe.mlp_writer(layer)
        live, wide = stored[first:mlp], everywhere[first:mlp]
        by_level = {"reached": np.flatnonzero(live & wide), "asked": np.flatnonzero(live & ~wide)}
        heads.append({name: found for name, found in by_level.items() if len(found)})
        reader = level[universe.blocks[2 * layer + 1].first_reader]
        mlps.append(None if reader == _NOWHERE else LEVELS[reader])
    return StepPlan(
        streams=streams,
        heads=tuple(heads),
        mlps=tuple(mlps),
        live_heads=sum(len(found) for by_level in heads for found in by_level.values()),
        live_mlps=sum(name is not None for name in mlps),
    )


def covering_edges(
    universe: Universe, live: np.ndarray, *, constant_when_dead: bool, run_dead_readers: bool = True
) -> np.ndarray:
    """All edges that may open without a pass having to run anything more, or anything elsewhere.

    A plan made for these runs the same nodes at the same levels as one made for `live`, and is right for every choice
    of gates whose live edges are among them.

    Args:
        universe: The universe.
        live: Booleans `[edge]`: edges of which none dangles (see `circuitgraph.graph.liveness.effective_edges`).
        constant_when_dead: See `stored_writers`.
        run_dead_readers: See `plan_step`.

    Returns:
        Booleans `[edge]`, which contain `live`.
    """
    stored = stored_writers(universe, live, constant_when_dead=constant_when_dead)
    sweep = _Sweep(universe, live, live, stored)
    running = sweep.running_readers(run_dead_readers)
    everywhere = sweep.needed_everywhere(running)
    parts = []
    for block in universe.blocks:
        wide = sweep.wide(block, everywhere)[:, None]
        seen = stored[: block.n_writers] & (everywhere[: block.n_writers] | ~wide)
        parts.append(seen & running[_rows(block), None])
    return _flat(parts)


def _flat(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


def _matrix(block: ReaderBlock, edges: np.ndarray) -> np.ndarray:
    return edges[block.edges].reshape(block.n_readers, block.n_writers)


def _rows(block: ReaderBlock) -> slice:
    return slice(block.first_reader, block.first_reader + block.n_readers)


class _Sweep:
    """Sweeps over the blocks with one step's gates."""

    def __init__(self, universe: Universe, active: np.ndarray, wanted: np.ndarray, stored: np.ndarray) -> None:
        self.universe, self.stored = universe, stored
        self.live = [_matrix(block, active) & stored[: block.n_writers] for block in universe.blocks]
        self.wanted = [_matrix(block, wanted).any(1) for block in universe.blocks]

    def running_readers(self, run_dead_readers: bool) -> np.ndarray:
        """Readers of stored writers `[reader]`."""
        universe = self.universe
        running = np.zeros(universe.n_readers, dtype=bool)
        for block, live in zip(universe.blocks, self.live, strict=True):
            if block.kind == "logits":
                used = np.array([True])
            elif block.kind == "mlp":
                used = self.stored[[universe.mlp_writer(block.layer)]]
            else:
                first = universe.first_head(block.layer)
                used = readers_used(universe, self.stored[first : first + universe.n_heads])
                if not run_dead_readers:
                    used = used & live.any(1)
            running[_rows(block)] = used
        return running

    def wide(self, block: ReaderBlock, everywhere: np.ndarray) -> np.ndarray:
        """Readers of a block that are needed beyond the asked positions, if they run `[reader]`."""
        universe = self.universe
        wide = np.ones(block.n_readers, dtype=bool)
        if block.kind == "logits":
            wide[:] = False
        elif block.kind == "mlp":
            wide[:] = everywhere[universe.mlp_writer(block.layer)]
        elif universe.n_kv_readers:
            first = universe.first_head(block.layer)
            wide[: universe.n_heads] = everywhere[first : first + universe.n_heads]
        return wide

    def needed_everywhere(self, running: np.ndarray) -> np.ndarray:
        """Writers on which a key or a value depends `[writer]`."""
        universe = self.universe
        everywhere = np.zeros(universe.n_writers, dtype=bool)
        for block, live in zip(reversed(universe.blocks), reversed(self.live), strict=True):
            wide = self.wide(block, everywhere)
            everywhere[: block.n_writers] |= live[wide & running[_rows(block)]].any(0)
        return everywhere

    def levels(self, running: np.ndarray, everywhere: np.ndarray, local: bool) -> tuple[np.ndarray, np.ndarray]:
        """The level of each running reader `[reader]`, and whether a gradient passes it `[reader]`."""
        universe = self.universe
        level = np.full(universe.n_readers, _NOWHERE)
        gradient = np.zeros(universe.n_readers, dtype=bool)
        is_local = np.zeros(universe.n_writers, dtype=bool)
        is_local[: universe.n_embeddings] = local
        passes = np.zeros(universe.n_writers, dtype=bool)
        for block, live, wanted in zip(universe.blocks, self.live, self.wanted, strict=True):
            wide = self.wide(block, everywhere)
            fed_locally = ~np.asarray((live & ~is_local[: block.n_writers]).any(1)) & local
            found = np.where(wide, np.where(fed_locally, _LOCAL, _REACHED), _ASKED)
            level[_rows(block)] = np.where(running[_rows(block)], found, _NOWHERE)
            moves = np.asarray(wanted | (live & passes[: block.n_writers]).any(1))
            gradient[_rows(block)] = moves
            if block.kind == "mlp":
                is_local[universe.mlp_writer(block.layer)] = fed_locally[0]
                passes[universe.mlp_writer(block.layer)] = moves[0]
            elif block.kind == "attention":
                first = universe.first_head(block.layer)
                passes[first : first + universe.n_heads] = heads_fed(universe, moves)
        return level, gradient

    def stream(self, in_stream: np.ndarray, gradient: np.ndarray) -> StreamPlan:
        """Lay out the stream of some readers."""
        universe = self.universe
        read = np.zeros(universe.n_writers, dtype=bool)
        for block, live in zip(universe.blocks, self.live, strict=True):
            read[: block.n_writers] |= live[in_stream[_rows(block)]].any(0)
        before = np.concatenate([[0], np.cumsum(read)])
        writer_of_slot = np.flatnonzero(read)
        blocks: list[BlockPlan] = []
        edges: list[np.ndarray] = []
        row = 0
        for block in universe.blocks:
            readers = np.flatnonzero(in_stream[_rows(block)])
            first, n_written = _writes(universe, block)
            visible = int(before[block.n_writers])
            index = np.full((len(readers), len(writer_of_slot)), universe.n_edges, dtype=np.int64)
            index[:, :visible] = block.first_edge + readers[:, None] * block.n_writers + writer_of_slot[None, :visible]
            edges.append(index)
            # The logits always pass a gradient on, so that a loss can be taken backward at all.
            moves = block.kind == "logits" or bool(gradient[_rows(block)][readers].any())
            blocks.append(
                BlockPlan(
                    readers=readers,
                    rows=slice(row, row + len(readers)),
                    n_slots=visible,
                    writers=np.flatnonzero(read[first : first + n_written]),
                    slots=slice(int(before[first]), int(before[first + n_written])),
                    differentiable=moves,
                )
            )
            row += len(readers)
        return StreamPlan(
            blocks=tuple(blocks),
            embeddings=np.flatnonzero(read[: universe.n_embeddings]),
            edges=np.concatenate(edges),
            n_slots=len(writer_of_slot),
        )


def _writes(universe: Universe, block: ReaderBlock) -> tuple[int, int]:
    """The first writer that a block feeds, and how many."""
    if block.kind == "attention":
        return universe.first_head(block.layer), universe.n_heads
    if block.kind == "mlp":
        return universe.mlp_writer(block.layer), 1
    return universe.n_writers, 0
