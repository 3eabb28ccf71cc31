"""What one training step holds, every gate undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from circuitgraph.architectures.family import ModelShape
from circuitgraph.forward.stream.buffer import overlapping
from circuitgraph.forward.stream.prefix_sums import KEPT_EVERY
from circuitgraph.graph.universe import Universe
from circuitgraph.memory.numbers import BYTES

_MAPPED_FROM = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of glibc's malloc.c, on 64 bits


@dataclass(frozen=True, kw_only=True)
class StreamSizes:
    """The readers that run at the same tokens, when every gate is undecided; see `circuitgraph.forward.plan.plan`.

    Attributes:
        readers: How many of each reader block.
        n_slots: Writers that they see.
        n_positions: Tokens at which they run.
    """

    readers: Sequence[int]
    n_slots: int
    n_positions: int

    def rows(self, universe: Universe) -> int:
        """Rows of the buffer of deltas and gradients."""
        n_rows = sum(self.readers)
        starts = [sum(self.readers[:place]) for place in range(len(self.readers))]
        seen = [min(block.n_writers, self.n_slots) for block in universe.blocks]
        return overlapping(starts, seen, n_rows, self.n_slots).size


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """One step's sizes, and what it holds, in bytes; the fields are arguments of `estimate_memory`.

    `divided` says whether the universe had spans of positions; it is then the one without them.
    """

    shape: ModelShape
    universe: Universe
    batch_size: int
    seq: int
    dtype: str
    device: str
    n_asked: int
    share_reached: float
    recompute: bool
    counterfactual: bool
    cpu_kernels: bool
    divided: bool = False

    @property
    def b(self) -> int:
        """Bytes per number."""
        return BYTES[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes per number where it is float32 at least."""
        return max(self.b, 4)

    @property
    def tokens(self) -> int:
        """Tokens at once."""
        return self.batch_size * self.seq

    @property
    def asked(self) -> int:
        """Asked positions at once."""
        return self.batch_size * self.n_asked

    @property
    def positions(self) -> int:
        """Tokens that are reached."""
        return max(self.asked, ceil(self.tokens * self.share_reached))

    @property
    def row(self) -> int:
        """One residual stream of the reached tokens."""
        return self.positions * self.shape.d_model * self.b

    @cached_property
    def streams(self) -> tuple[StreamSizes, ...]:
        """Readers at the reached tokens, and at the asked positions alone: no key and no value depends on these.

        Divided by spans, each span has all readers at its own tokens: together as much as one stream at all of them.
        """
        universe = self.universe
        if self.divided:
            every = [block.n_readers for block in universe.blocks]
            return (StreamSizes(readers=every, n_slots=universe.n_writers, n_positions=self.positions),)
        last = universe.n_layers - 1
        wide = [block.n_readers if block.layer < last else int(block.elsewhere.sum()) for block in universe.blocks]
        narrow = [block.n_readers - reached for block, reached in zip(universe.blocks, wide, strict=True)]
        return (
            StreamSizes(readers=wide, n_slots=universe.blocks[-3].n_writers, n_positions=self.positions),
            StreamSizes(readers=narrow, n_slots=universe.n_writers, n_positions=self.asked),
        )

    @property
    def stream(self) -> int:
        """The buffers of deltas and gradients."""
        width = self.shape.d_model * self.b
        return sum(one.rows(self.universe) * one.n_positions * width for one in self.streams)

    @property
    def scratch(self) -> int:
        """The largest block's readers."""
        return max(max(one.readers) * one.n_positions for one in self.streams) * self.shape.d_model * self.b

    @property
    def activations(self) -> int:
        """What autograd keeps; queries, outputs and the MLP of the last layer are at the asked positions alone."""
        shape, earlier = self.shape, self.shape.n_layers - 1
        keys_and_values = 2 * shape.n_layers * self.tokens
        queries_and_outputs = 2 * (earlier * self.tokens + self.asked)
        heads = (keys_and_values + queries_and_outputs) * shape.n_heads * shape.d_head
        read = earlier * self.positions + self.asked  # by all MLPs
        inside = shape.mlp_saved_in(self.b) * shape.d_mlp
        mlps = self.positions * inside + read * shape.d_model if self.recompute else read * inside
        return (heads + mlps) * self.b

    @property
    def sums(self) -> int:
        """Residual streams before each block, those that are kept; constant values are the same at every token."""
        n_blocks = 2 * self.shape.n_layers
        ablated = (1 + _sums_of(n_blocks)) * self.tokens * self.b if self.counterfactual else 0
        running = (
            _sums_of(n_blocks + self.universe.n_embeddings + len(self.universe.virtual)) * self.positions * self.wide
        )
        return (ablated + running) * self.shape.d_model

    @cached_property
    def passing(self) -> tuple[int, int, int, int]:
        """Tensors that pass within a layer.

        Of those of a block's readers that took the complement (not by the CPU's kernels), of what its heads wrote,
        inside of its MLP, and of one residual stream.
        """
        readers = self.universe.n_attention_readers * self.row
        inside = self.shape.d_mlp * self.positions * self.b
        complement = 0 if self.cpu_kernels else readers // 2
        return complement, self.shape.n_heads * self.row, inside, self.row

    @property
    def working(self) -> int:
        """The largest of what passes within a layer."""
        complement, written, inside, _ = self.passing
        return max(complement, written, 4 * inside)

    @property
    def heap(self) -> int:
        """What the heap holds free: a hole per layer."""
        if self.device != "cpu":
            return 0
        return self.shape.n_layers * max((size for size in self.passing if size < _MAPPED_FROM), default=0)

    @property
    def logits(self) -> int:
        """Of teacher and circuit, what is made of them, and gradients."""
        return 6 * self.asked * self.shape.d_vocab * self.wide


def _sums_of(n_terms: int) -> int:
    """How many sums of so many terms are there at once, see `circuitgraph.forward.stream.prefix_sums`."""
    return n_terms // KEPT_EVERY + min(n_terms, KEPT_EVERY - 1)
