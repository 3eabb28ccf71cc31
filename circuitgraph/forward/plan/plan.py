"""What one masked pass has to run, from the gates of this very step.

A writer is *stored* if it can differ from its ablation value and something that reaches the logits reads
it; everything else is skipped, exactly. What runs, runs at one of three sets of positions (see
`circuitgraph.forward.plan.positions`), in the *stream* of that name:

- `asked` if nothing that is needed elsewhere reads it, so that no key and no value depends on it;
- else `local` if no attention feeds it;
- else `reached`.

With spans of positions each span has a stream instead (see `circuitgraph.forward.plan.spans`).

A stream is the readers that run at its positions, and the writers that they read, each stored in a *slot*. All of
it is decided on the host, on flat arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitgraph.graph.liveness import backward_reach, forward_reach, the_logits, the_sources
from circuitgraph.graph.part import Part
from circuitgraph.graph.universe import Universe

STREAMS = ("local", "reached", "asked")
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
        differentiable: Whether a gate whose gradient is required lies at these readers or before them, or the ablated
            residual stream takes a gradient.
    """

    readers: np.ndarray
    rows: slice
    n_slots: int
    writers: np.ndarray
    slots: slice
    differentiable: bool


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """The readers of one stream, and what they read.

    Attributes:
        blocks: A plan for every reader block of the universe.
        embeddings: Embedding writers that are stored, in slots `0 … len(embeddings) - 1`.
        vectors: The vectors that are stored, by layer: which of the universe's, and its slot.
        edges: Flat edge index of every running reader and stored writer `[row, slot]`, `n_edges` where the
            reader does not see the writer.
        n_slots: Stored writers.
    """

    blocks: tuple[BlockPlan, ...]
    embeddings: np.ndarray
    vectors: tuple[tuple[tuple[int, int], ...], ...]
    edges: np.ndarray
    n_slots: int


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One whole pass.

    Attributes:
        streams: The streams that have readers, by name.
        heads: For each layer, the heads that run (indices within the layer), by the stream at whose positions.
        mlps: For each layer, the streams that its MLP reads, none where it does not run; several only with spans.
        live_heads: Heads that run, at each span anew.
        live_mlps: MLPs that run, at each span anew.
    """

    streams: dict[str, StreamPlan]
    heads: tuple[dict[str, np.ndarray], ...]
    mlps: tuple[tuple[str, ...], ...]
    live_heads: int
    live_mlps: int


def stored_writers(universe: Universe, active: np.ndarray, *, constant_when_dead: bool) -> np.ndarray:
    """Writers that can differ from their ablation value and that matter to the logits.

    Args:
        universe: The universe.
        active: Booleans `[edge]`: the gate is not 0, or its gradient is required.
        constant_when_dead: Whether a node without live inputs may still differ from its ablation value, as
            under zero and mean ablation.

    Returns:
        Booleans `[writer]`.
    """
    matters = backward_reach(universe, active, readers=the_logits(universe))[1]
    if constant_when_dead:
        return matters
    return matters & forward_reach(universe, active, writers=the_sources(universe))[1]


def plan_step(
    universe: Universe,
    active: np.ndarray,
    needs_grad: np.ndarray,
    *,
    constant_when_dead: bool,
    run_dead_readers: bool = True,
    local: bool = False,
    learnt_base: bool = False,
) -> StepPlan:
    """Decide what runs, and where.

    Args:
        universe: The universe.
        active: Booleans `[edge]`: the gate is not 0, or its gradient is required.
        needs_grad: Booleans `[edge]`: the gradient is required.
        constant_when_dead: See `stored_writers`.
        run_dead_readers: Whether a live head's readers without live edges run; not needed where the ablated
            run's queries, keys and values are at hand.
        local: Whether local positions are a stream of their own.
        learnt_base: Whether ablation values take a gradient: then every reader passes one on, for each sees the
            ablated residual stream.

    Returns:
        The plan.
    """
    stored = stored_writers(universe, active, constant_when_dead=constant_when_dead)
    live = seen_of(universe, active, stored)
    running = running_readers(universe, live, stored, run_dead_readers)
    wide, everywhere = _needed_everywhere(universe, live, running)
    level = np.where(wide, np.where(_fed_locally(universe, live, local), _LOCAL, _REACHED), _ASKED)
    level[~running] = _NOWHERE
    gradient = running if learnt_base else passed_by_gradients(universe, live, needs_grad)
    streams = {}
    for index, name in enumerate(STREAMS):
        rows = level == index
        if rows.any():
            streams[name] = stream_of(universe, universe.parts[0], live, rows, gradient)
    heads, mlps = [], []
    for block in universe.blocks:
        if block.kind == "attention":
            runs, far = stored[block.written], everywhere[block.written]
            by_level = {"reached": np.flatnonzero(runs & far), "asked": np.flatnonzero(runs & ~far)}
            heads.append({name: found for name, found in by_level.items() if len(found)})
        elif block.kind == "mlp":
            reader = level[block.first_reader]
            mlps.append(() if reader == _NOWHERE else (STREAMS[reader],))
    return StepPlan(
        streams=streams,
        heads=tuple(heads),
        mlps=tuple(mlps),
        live_heads=sum(len(found) for by_level in heads for found in by_level.values()),
        live_mlps=sum(map(len, mlps)),
    )


def covering_edges(
    universe: Universe, live: np.ndarray, *, constant_when_dead: bool, run_dead_readers: bool = True
) -> np.ndarray:
    """All edges that may open without a pass having to run anything more, or anything elsewhere.

    A plan made for these runs the same nodes at the same positions as one made for `live`, and is right for every
    choice of gates whose live edges are among them.

    Args:
        universe: The universe.
        live: Booleans `[edge]`: edges of which none dangles (see `circuitgraph.graph.liveness.effective_edges`).
        constant_when_dead: See `stored_writers`.
        run_dead_readers: See `plan_step`.

    Returns:
        Booleans `[edge]`, which contain `live`.
    """
    stored = stored_writers(universe, live, constant_when_dead=constant_when_dead)
    seen = seen_of(universe, live, stored)
    running = running_readers(universe, seen, stored, run_dead_readers)
    wide, everywhere = _needed_everywhere(universe, seen, running)
    found = np.zeros_like(seen)
    for block in universe.blocks:
        far = wide[block.readers, None]
        open_to = stored[: block.n_writers] & (everywhere[: block.n_writers] | ~far)
        block.matrix(found)[:] = open_to & running[block.readers, None]
    return found


def seen_of(universe: Universe, active: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Active edges from stored writers `[edge]`."""
    live = active.copy()
    for part in universe.parts:
        mine, written = live[part.edges], stored[part.writers]
        for block in part.blocks:
            block.matrix(mine)[:, ~written[: block.n_writers]] = False
    return live


def running_readers(universe: Universe, live: np.ndarray, stored: np.ndarray, run_dead_readers: bool) -> np.ndarray:
    """The logits, and readers of stored writers `[reader]`; of heads all, or those with live edges.

    With spans, keys and values of a head run at its own span and at those before.
    """
    running = the_logits(universe)
    for index in range(len(universe.without_spans.blocks)):
        behind: np.ndarray | bool = False
        for part in reversed(universe.parts):
            if index == len(part.blocks):
                continue
            block = part.blocks[index]
            serving = block.serving(stored[part.writers][block.written])
            used = serving | behind
            behind = behind | (serving & block.elsewhere)
            if block.kind == "attention" and not run_dead_readers:
                used &= block.matrix(live[part.edges]).any(1)
            running[part.readers][block.readers] |= used
    return running


def _needed_everywhere(universe: Universe, live: np.ndarray, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Readers needed beyond the asked positions, if they run `[reader]`; writers on which a key or value depends."""
    elsewhere = np.concatenate([block.elsewhere for block in universe.blocks])
    return backward_reach(universe, live, readers=elsewhere, within=running)


def _fed_locally(universe: Universe, live: np.ndarray, local: bool) -> np.ndarray:
    """Readers that no attention feeds, where local positions are a stream of their own `[reader]`."""
    if not local:
        return np.zeros(universe.n_readers, dtype=bool)
    return ~forward_reach(universe, live, writers=universe.writer_kinds == "head")[0]


def passed_by_gradients(universe: Universe, live: np.ndarray, needs_grad: np.ndarray) -> np.ndarray:
    """Readers with a gate that requires a gradient at them or before them `[reader]`."""
    own = np.concatenate(
        [block.matrix(needs_grad[part.edges]).any(1) for part in universe.parts for block in part.blocks]
    )
    return forward_reach(universe, live, writers=np.zeros(universe.n_writers, dtype=bool), readers=own)[0]


def stream_of(
    universe: Universe, part: Part, live: np.ndarray, in_stream: np.ndarray, gradient: np.ndarray
) -> StreamPlan:
    """Lay out the stream of some readers.

    Args:
        universe: The universe.
        part: What of it the readers are of.
        live: Booleans over the part's edges: the gate matters.
        in_stream: Booleans over the part's readers: they are in the stream.
        gradient: Booleans over the part's readers: they pass a gradient on.
    """
    read = np.zeros(part.writers.stop - part.writers.start, dtype=bool)
    for block in part.blocks:
        read[: block.n_writers] |= block.matrix(live)[in_stream[block.readers]].any(0)
    before = np.concatenate([[0], np.cumsum(read)])
    writer_of_slot = np.flatnonzero(read)
    blocks: list[BlockPlan] = []
    edges: list[np.ndarray] = []
    row = 0
    for block in part.blocks:
        readers = np.flatnonzero(in_stream[block.readers])
        visible = int(before[block.n_writers])
        index = np.full((len(readers), len(writer_of_slot)), universe.n_edges, dtype=np.int64)
        first = part.edges.start + block.first_edge
        index[:, :visible] = first + readers[:, None] * block.n_writers + writer_of_slot[None, :visible]
        edges.append(index)
        # The logits always pass a gradient on, so that a loss can be taken backward at all.
        moves = block.kind == "logits" or bool(gradient[block.readers][readers].any())
        blocks.append(
            BlockPlan(
                readers=readers,
                rows=slice(row, row + len(readers)),
                n_slots=visible,
                writers=np.flatnonzero(read[block.written]),
                slots=slice(int(before[block.written.start]), int(before[block.written.stop])),
                differentiable=moves,
            )
        )
        row += len(readers)
    return StreamPlan(
        blocks=tuple(blocks),
        embeddings=np.flatnonzero(read[: universe.n_embeddings]),
        vectors=_stored_vectors(universe, read, before),
        edges=np.concatenate(edges),
        n_slots=len(writer_of_slot),
    )


def _stored_vectors(
    universe: Universe, read: np.ndarray, slot_of: np.ndarray
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The vectors that are read, by layer, with their slots."""
    by_layer: list[list[tuple[int, int]]] = [[] for _ in range(universe.n_layers)]
    for vector, (writer, layer) in enumerate(zip(universe.vector_writers, universe.vector_layers, strict=True)):
        if read[writer]:
            by_layer[layer].append((vector, int(slot_of[writer])))
    return tuple(map(tuple, by_layer))
