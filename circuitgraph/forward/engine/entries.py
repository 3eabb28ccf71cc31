"""Which coefficients of a matrix are not zero, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64


@dataclass(frozen=True, eq=False)
class Entries:
    """A sparse matrix `[to source]`.

    Attributes:
        starts: Where each row's entries begin, and where the last one's end `[to + 1]`.
        sources: The column of each entry.
        factors: What stands there, in the format of what it is multiplied with.
    """

    starts: Int64[np.ndarray, " to_and_one"]
    sources: Int64[np.ndarray, " entry"]
    factors: Float[np.ndarray, " entry"]

    @staticmethod
    def of(matrix: np.ndarray, dtype: np.dtype) -> Entries:
        """A matrix's entries that are not zero.

        Args:
            matrix: `[to source]`; booleans count as ones.
            dtype: Of the factors.

        Examples:
            >>> entries = Entries.of(np.array([[0.0, 2.0], [0.0, 0.0], [3.0, 4.0]]), np.dtype("float32"))
            >>> entries.starts.tolist(), entries.sources.tolist(), entries.factors.tolist()
            ([0, 1, 1, 3], [1, 0, 1], [2.0, 3.0, 4.0])
        """
        to, sources = np.nonzero(matrix)
        starts = np.zeros(len(matrix) + 1, dtype=np.int64)
        np.cumsum(np.bincount(to, minlength=len(matrix)), out=starts[1:])
        return Entries(starts, sources, matrix[to, sources].astype(dtype))

    @staticmethod
    def none(n_rows: int) -> Entries:
        """A matrix of zeros.

        Args:
            n_rows: How many rows it has.
        """
        return Entries(np.zeros(n_rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))

    def rows(self, rows: slice) -> Entries:
        """Those of neighbouring rows; `sources` and `factors` stay those of all.

        Args:
            rows: Which.
        """
        return Entries(self.starts[rows.start : rows.stop + 1], self.sources, self.factors)
