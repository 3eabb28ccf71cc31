"""A kernel over some cells in each of several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

NUMBERS_A_THREAD = 1 << 19
"""Less work than that is not worth handing to a thread."""


def parts_of(n_cells: int, numbers: int) -> list[tuple[int, int]]:
    """The cells of each part, as many parts as torch has threads here, or fewer where there is little to do.

    Args:
        n_cells: How many cells there are.
        numbers: How many are read and written in all.

    Examples:
        >>> parts_of(10, 5)
        [(0, 10)]
    """
    n = max(1, min(torch.get_num_threads(), numbers // NUMBERS_A_THREAD, n_cells))
    bounds = [n_cells * part // n for part in range(n + 1)]
    return list(zip(bounds, bounds[1:], strict=False))


def over(parts: list[tuple[int, int]], kernel: Callable[[int, int, int], None]) -> None:
    """Run a kernel for all parts, side by side.

    Args:
        parts: From `parts_of`.
        kernel: Called with a part's number, its first cell, and where its cells end.
    """
    others = [_pool().submit(kernel, number, *part) for number, part in enumerate(parts[1:], 1)]
    kernel(0, *parts[0])
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads for all but the first part of each call; those of a lane take turns with those of others."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads()), thread_name_prefix="kernel")
