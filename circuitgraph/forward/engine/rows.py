"""Which rows and heads are chosen, in forms that copy nothing where all of them are."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from circuitgraph.transfer import to_device


def pick(values: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows of a tensor; the tensor itself where these are all of its rows in order.

    Args:
        values: `[row …]`.
        rows: Which.
    """
    if len(rows) == len(values) and bool((rows == np.arange(len(values))).all()):
        return values
    return values.index_select(0, to_device(rows, values.device))


def run_of(heads: np.ndarray) -> slice | None:
    """Neighbouring heads as a slice, or None.

    Examples:
        >>> run_of(np.array([3, 4, 5])), run_of(np.array([3, 5]))
        (slice(3, 6, None), None)
    """
    if not len(heads):
        return None
    first, last = int(heads[0]), int(heads[-1])
    # Most choices differ at their ends.
    if last - first + 1 != len(heads) or not (heads[1:] - heads[:-1] == 1).all():
        return None
    return slice(first, last + 1)
