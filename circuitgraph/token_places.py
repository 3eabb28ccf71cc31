"""Where tokens are in a padded batch: by their place in the prompt, counted from either end. Without torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

FARTHEST = 1 << 31
"""No prompt has as many tokens."""


def at_place(real: Bool[np.ndarray, "batch seq"], place: int) -> Bool[np.ndarray, "batch seq"]:
    """Where each prompt has its token of a place; nowhere in a prompt that is too short to have it.

    Args:
        real: Where there is no padding, which may lie on either side.
        place: 0, 1, … from the first token, or -1, -2, … from the last.

    Examples:
        >>> real = np.array([[False, True, True], [True, True, True]])
        >>> at_place(real, 0).astype(int).tolist(), at_place(real, -3).astype(int).tolist()
        ([[0, 1, 0], [1, 0, 0]], [[0, 0, 0], [1, 0, 0]])
    """
    wanted = real.sum(1) + place if place < 0 else np.full(len(real), place)
    return real & (real.cumsum(1) - 1 == wanted[:, None])


def flags_of(asked: np.ndarray, shape: tuple[int, ...]) -> Bool[np.ndarray, "batch seq"]:
    """Flat indices of a batch's positions as booleans.

    Args:
        asked: `prompt * seq + position` each.
        shape: `(batch, seq)`.
    """
    found = np.zeros(shape, dtype=bool)
    found.flat[asked] = True
    return found
