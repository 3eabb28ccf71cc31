"""Coefficients of sums, and wanted pairs of rows, in the forms in which engines take them, each made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.forward.engine.entries import Entries


@dataclass(frozen=True, kw_only=True, eq=False)
class Coefficients:
    """A matrix of coefficients.

    Attributes:
        matrix: On the device, in the format of what it is multiplied with.
        host: The same on the host, or, where the matrix is never read there, 1 where it may be other than 0: what
            engines decide by.
        part_of: The matrix whose rows these are, and which; its entries serve all its parts.
    """

    matrix: Float[Tensor, "to source"]
    host: Float[np.ndarray, "to source"]
    part_of: tuple[Coefficients, slice] | None = None

    @cached_property
    def present(self) -> Bool[np.ndarray, "to source"]:
        """Where coefficients may be other than 0."""
        return self.host != 0

    @cached_property
    def entries(self) -> Entries:
        """The coefficients that are not 0, of a matrix on a CPU."""
        if self.part_of is not None:
            whole, rows = self.part_of
            return whole.entries.rows(rows)
        numbers = self.matrix.numpy()
        return Entries.of(numbers, numbers.dtype)

    def of_rows(self, rows: slice, n_sources: int) -> Coefficients:
        """Neighbouring rows, whose coefficients behind the first sources are all 0.

        Args:
            rows: Which.
            n_sources: How many sources they have.
        """
        part = self.matrix[rows, :n_sources], self.host[rows, :n_sources]
        return Coefficients(matrix=part[0], host=part[1], part_of=(self, rows))

    def turned(self, rows: slice, sources: slice) -> Coefficients:
        """Some rows and sources of it, transposed: `[source to]`.

        Args:
            rows: Which rows.
            sources: Which sources.
        """
        return Coefficients(matrix=self.matrix[rows, sources].T, host=self.host[rows, sources].T)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of rows whose dot products are wanted.

    Attributes:
        wanted: On the host.

    Examples:
        >>> pairs = Pairs(wanted=np.array([[True, False], [True, True]]))
        >>> len(pairs), len(pairs.of_rows(slice(1, 2), 2))
        (3, 2)
    """

    wanted: Bool[np.ndarray, "left right"]

    def __len__(self) -> int:
        return len(self.entries.sources)

    @cached_property
    def entries(self) -> Entries:
        """The wanted pairs, row by row."""
        return Entries.of(self.wanted, np.dtype("float32"))

    @property
    def share(self) -> float:
        """How many of all pairs are wanted."""
        return len(self) / max(1, self.wanted.size)

    def of_rows(self, rows: slice, n_right: int) -> Pairs:
        """Those of neighbouring rows, of which none is with a right row behind the first ones.

        Args:
            rows: Which rows on the left.
            n_right: How many on the right.
        """
        part, entries = Pairs(wanted=self.wanted[rows, :n_right]), self.entries
        first, last = int(entries.starts[rows.start]), int(entries.starts[rows.stop])
        starts = entries.starts[rows.start : rows.stop + 1] - first
        vars(part)["entries"] = Entries(starts, entries.sources[first:last], entries.factors[first:last])
        return part
