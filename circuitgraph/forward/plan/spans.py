"""What one masked pass has to run where edges are divided by spans of token positions: a stream for each span.

A stream's readers read what was written at its span. An MLP runs at the spans that are read; a head too, with queries
of that span, and keys and values of all spans up to it, each with its own span's gates.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.plan.plan import (
    StepPlan,
    passed_by_gradients,
    running_readers,
    seen_of,
    stored_writers,
    stream_of,
)
from circuitgraph.graph.part import Part
from circuitgraph.graph.universe import Universe


def stream_name(span: str) -> str:
    """The name of a span's stream."""
    return f"@{span}"


def plan_spans(
    universe: Universe,
    active: np.ndarray,
    needs_grad: np.ndarray,
    *,
    reached: Bool[np.ndarray, " span"],
    constant_when_dead: bool,
    run_dead_readers: bool = True,
    learnt_base: bool = False,
) -> StepPlan:
    """Decide what runs, and at which spans; see `circuitgraph.forward.plan.plan.plan_step`.

    Args:
        universe: One with spans.
        active: Booleans `[edge]`: the gate is not 0, or its gradient is required.
        needs_grad: Booleans `[edge]`: the gradient is required.
        reached: Which spans have positions that have to run at all.
        constant_when_dead: See `stored_writers`.
        run_dead_readers: Whether a live head's readers without live edges run.
        learnt_base: Whether ablation values take a gradient.

    Returns:
        The plan, with a stream for every span that has readers.
    """
    active = active.copy()
    for part, is_reached in zip(universe.parts, reached, strict=True):
        active[part.edges] &= is_reached
    stored = stored_writers(universe, active, constant_when_dead=constant_when_dead)
    live = seen_of(universe, active, stored)
    running = running_readers(universe, live, stored, run_dead_readers)
    for part, is_reached in zip(universe.parts, reached, strict=True):
        running[part.readers] &= is_reached
    gradient = running if learnt_base else passed_by_gradients(universe, live, needs_grad)
    streams = {}
    for part in universe.parts:
        rows = running[part.readers]
        if rows.any():
            mine = live[part.edges], rows, gradient[part.readers]
            streams[stream_name(part.span)] = stream_of(universe, part, *mine)
    n_layers = universe.n_layers
    heads = tuple(_heads(universe, stored, layer) for layer in range(n_layers))
    mlps = tuple(_mlps(universe.parts, running, layer) for layer in range(n_layers))
    return StepPlan(
        streams=streams,
        heads=heads,
        mlps=mlps,
        live_heads=sum(len(found) for of_layer in heads for found in of_layer.values()),
        live_mlps=sum(map(len, mlps)),
    )


def _heads(universe: Universe, stored: np.ndarray, layer: int) -> dict[str, Int[np.ndarray, " head"]]:
    found = {}
    for part in universe.parts:
        runs = np.flatnonzero(stored[part.writers][part.blocks[2 * layer].written])
        if len(runs):
            found[stream_name(part.span)] = runs
    return found


def _mlps(parts: tuple[Part, ...], running: np.ndarray, layer: int) -> tuple[str, ...]:
    reader = parts[0].blocks[2 * layer + 1].first_reader
    return tuple(stream_name(part.span) for part in parts if running[part.readers][reader])


def check_causal(universe: Universe, causal: bool) -> None:
    """Refuse a model whose positions see later ones, which a universe with spans has no edges for.

    Raises:
        ConfigurationError: It is one.
    """
    if not causal:
        raise ConfigurationError(
            f"a {universe.family} model sees tokens on both sides, and spans are for models that see only what stands "
            "before; use a universe without spans"
        )


def checked_span_ids(
    universe: Universe, span_ids: np.ndarray | None, real: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """Say at which span every position is, and refuse spans that do not fit.

    Args:
        universe: One with spans.
        span_ids: The batch's `[batch seq]`, anything at padding.
        real: Booleans `[batch seq]`: no padding.
        asked: Flat indices of the asked positions.

    Returns:
        The index of each position's span `[batch seq]`, -1 at padding.

    Raises:
        ConfigurationError: The batch has none, or a position has none, or spans stand in another order, or something
            is asked at a span where no logits are read.
    """
    names = universe.spans
    if span_ids is None:
        raise ConfigurationError(
            f"the universe has the spans {', '.join(names)}, and the batch does not say which position is in which; "
            "give its `span_ids`"
        )
    if span_ids.shape != real.shape:
        raise ConfigurationError(
            f"span_ids must have one number per token, {tuple(real.shape)}; got the shape {tuple(span_ids.shape)}"
        )
    found = np.where(real, span_ids, -1)
    outside = real & ((found < 0) | (found >= len(names)))
    if outside.any():
        prompt, place = np.argwhere(outside)[0]
        raise ConfigurationError(
            f"prompt {prompt} of the batch, token {place}: expected the number of a span, 0 to {len(names) - 1} "
            f"({', '.join(names)}); got {found[prompt, place]}"
        )
    latest = np.maximum.accumulate(found, axis=1)
    back = real & (found < latest)
    if back.any():
        prompt, place = np.argwhere(back)[0]
        raise ConfigurationError(
            f"prompt {prompt} of the batch, token {place}: it is in span {names[found[prompt, place]]!r}, but a token "
            f"before it is in {names[latest[prompt, place]]!r}; spans must follow each other as {', '.join(names)}"
        )
    of_asked = found.ravel()[asked]
    unread = [name for place, name in enumerate(names) if (of_asked == place).any() and not _reads(universe, place)]
    if unread:
        raise ConfigurationError(
            f"something is asked at span {unread[0]!r}, where the universe reads no logits; it reads them at: "
            f"{', '.join(part.span for part in universe.parts if part.blocks[-1].kind == 'logits')}"
        )
    return found


def _reads(universe: Universe, place: int) -> bool:
    return universe.parts[place].blocks[-1].kind == "logits"
