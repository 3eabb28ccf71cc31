"""A part of a universe: what is there at one span of token positions, or, without spans, everything.

Sweeps over a universe walk its parts side by side. Within a part, indices count as in the universe without spans, so
that a part's slice of one value per edge is read by the same blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from circuitgraph.graph.block import Block


@dataclass(frozen=True, kw_only=True)
class Part:
    """What of a universe is at one span.

    Attributes:
        span: Its name; empty without spans.
        blocks: The blocks, as of the universe without spans; without the logits where none are asked at the span.
        writers: Which of all writers.
        readers: Which of all readers.
        edges: Which of all edges.
    """

    span: str
    blocks: tuple[Block, ...]
    writers: slice
    readers: slice
    edges: slice


def part_of_writers(parts: Sequence[Part]) -> Int[np.ndarray, " writer"]:
    """Which part every writer is in."""
    return np.repeat(np.arange(len(parts)), [part.writers.stop - part.writers.start for part in parts])


def part_of_readers(parts: Sequence[Part]) -> Int[np.ndarray, " reader"]:
    """Which part every reader is in."""
    return np.repeat(np.arange(len(parts)), [part.readers.stop - part.readers.start for part in parts])
