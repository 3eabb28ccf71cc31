"""A block: readers that see the same writers, and the writers that they feed.

Blocks are all that sweeps over a universe need to know of a model: liveness, the plan of a masked pass and the folding
of a circuit walk them in order and ask which writers a block reads, which it writes, and which reader serves which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, kw_only=True)
class Block:
    """One attention layer, one MLP, or the logits, which write nothing.

    Attributes:
        kind: `attention`, `mlp` or `logits`.
        layer: The layer; `n_layers` for the logits.
        first_reader: Index of the first reader.
        n_readers: How many readers.
        n_writers: How many writers they see, always writers `0 … n_writers - 1`.
        first_edge: Flat index of the edge from writer 0 into the first reader.
        first_written: Index of the first writer that the block writes.
        readers_of: The readers that serve each writer of the block, as indices within the block `[written role]`: of a
            head its query, key and value reader, or the one for all three; of an MLP its only one.
        elsewhere: Readers whose tokens other positions look at: keys and values `[reader]`.
        shares_scale: Whether what the block writes stands behind one norm, so that all of it moves when any of its
            readers sees something else, and all of it is needed where any is.
    """

    kind: Literal["attention", "mlp", "logits"]
    layer: int
    first_reader: int
    n_readers: int
    n_writers: int
    first_edge: int
    first_written: int
    readers_of: Int[np.ndarray, "written role"] = field(compare=False, repr=False)
    elsewhere: Bool[np.ndarray, " reader"] = field(compare=False, repr=False)
    shares_scale: bool = False

    @property
    def edges(self) -> slice:
        """Where the block lies in the flat gate vector."""
        return slice(self.first_edge, self.first_edge + self.n_readers * self.n_writers)

    @property
    def readers(self) -> slice:
        """The block's readers among all."""
        return slice(self.first_reader, self.first_reader + self.n_readers)

    @property
    def written(self) -> slice:
        """The writers that the block writes, among all."""
        return slice(self.first_written, self.first_written + len(self.readers_of))

    def matrix(self, edges: np.ndarray) -> np.ndarray:
        """The block's part of one value per edge, as a view `[reader writer]`.

        Args:
            edges: One value per edge of the universe `[edge]`.
        """
        return edges[self.edges].reshape(self.n_readers, self.n_writers)

    def fed(self, readers: Bool[np.ndarray, " reader"]) -> Bool[np.ndarray, " written"]:
        """Writers of the block that are served by at least one of some of its readers.

        Args:
            readers: Booleans over the block's readers.
        """
        if self.shares_scale:
            return np.full(len(self.readers_of), bool(readers.any()))
        return np.asarray(readers[self.readers_of].any(1))

    def serving(self, writers: Bool[np.ndarray, " written"]) -> Bool[np.ndarray, " reader"]:
        """Readers of the block that serve at least one of some of its writers.

        Args:
            writers: Booleans over the writers that the block writes.
        """
        if self.shares_scale:
            return np.full(self.n_readers, bool(writers.any()))
        serving = np.zeros(self.n_readers, dtype=bool)
        serving[self.readers_of[writers]] = True
        return serving
