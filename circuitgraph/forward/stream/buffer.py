"""Where deltas and gradients lie in a stream's buffer, and how few rows do for both.

Deltas stand at the beginning in the order of their slots; gradients of what readers saw fill the end, from the last
reader to the first. A block's gradients may lie over any delta that the block does not see.

About halfway back the gradients are **folded**: all that is still asked of those that have come is their share in the
gradients of the writers before, one row per writer, and that is worked out at once and put in their place. With as many
readers as writers this would save nothing; a layer of Llama has 16 readers to 10 writers, one of GPT-2 37 to 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class StreamLayout:
    """Which row of the buffer holds what.

    Attributes:
        size: Rows of the buffer.
        n_rows: Readers.
        fold_row: Gradients of readers from here on are folded before one of an earlier reader comes; 0 where none is.
        n_folded: Writers that they are folded into, always the first.

    Examples:
        >>> layout = StreamLayout(size=10, n_rows=12, fold_row=5, n_folded=3)
        >>> layout.place(slice(8, 11)), layout.place(slice(0, 2)), layout.folded
        (slice(6, 9, None), slice(2, 4, None), slice(7, 10, None))
    """

    size: int
    n_rows: int
    fold_row: int = 0
    n_folded: int = 0

    def place(self, rows: slice) -> slice:
        """Where the gradients of some readers lie, all of them before the fold or all behind it.

        Args:
            rows: The readers.
        """
        shift = self.size - (self.n_rows if rows.start >= self.fold_row else self.fold_row + self.n_folded)
        return slice(rows.start + shift, rows.stop + shift)

    @property
    def folded(self) -> slice:
        """Where the folded gradients lie, one row per writer."""
        return slice(self.size - self.n_folded, self.size)


def overlapping(starts: Sequence[int], seen: Sequence[int], n_rows: int, n_slots: int) -> StreamLayout:
    """The smallest buffer in which no block's gradients lie over a delta that it sees, folded once at most.

    Args:
        starts: The first reader of each block, two blocks a layer, then that of the logits.
        seen: How many writers each sees.
        n_rows: Readers.
        n_slots: Writers.

    Examples:
        Three layers of one head, with a reader each for query, key and value, and an MLP. In one go the gradients of
        all 13 readers would stand above the embedding's delta: 14 rows. Folded after the second layer of three, nine
        gradients stand above three deltas, and then three sums and the first layer's four above one: 12 rows.

        >>> overlapping([0, 3, 4, 7, 8, 11, 12], [1, 2, 3, 4, 5, 6, 7], 13, 7)
        StreamLayout(size=12, n_rows=13, fold_row=4, n_folded=3)
    """
    last = [*starts[1:], n_rows]
    runs = np.array([stop > start for start, stop in zip(starts, last, strict=True)])
    nothing = -n_rows - n_slots
    reach = np.where(runs, np.array(seen) - np.array(starts), nothing)
    before = np.concatenate([[nothing], np.maximum.accumulate(reach)])
    behind = np.concatenate([np.maximum.accumulate(reach[::-1])[::-1], [nothing]])
    layouts = []
    for block in range(0, len(starts), 2):
        fold_row, n_folded = (starts[block], seen[block]) if starts[block] else (0, 0)
        late, early = n_rows + int(behind[block]), fold_row + n_folded + int(before[block])
        size = max(n_slots, late, early, n_rows - fold_row, n_folded)
        layouts.append(StreamLayout(size=size, n_rows=n_rows, fold_row=fold_row, n_folded=n_folded))
    return min(layouts, key=lambda layout: layout.size)
