"""A kernel over some positions in each of several threads.

The threads are those of Numba's OpenMP (or TBB): a pool of Python's own made kernels slower than one thread does, since
a thread of torch's that waits for its next share in a loop holds the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Int64

from circuitgraph.forward.engine.cpu.compiler import numba, parallel_kernel

NUMBERS_PER_THREAD = 1 << 17
"""Less work than that, some 30 µs, is not worth a thread (docs/performance.md)."""
_SAFE_LAYERS = ("omp", "tbb")
"""Numba's own third layer ends the process where two threads use it at once."""


def bounds_of(n_positions: int, numbers: int) -> Int64[np.ndarray, " part_and_one"]:
    """Where the positions of each part begin, and the last one's end: at most as many parts as torch has threads.

    Args:
        n_positions: How many positions there are.
        numbers: How many are read and written in all.

    Examples:
        >>> bounds_of(10, 5).tolist()
        [0, 10]
    """
    n = max(1, min(torch.get_num_threads(), numbers // NUMBERS_PER_THREAD, n_positions))
    if n > 1 and not threads_work():
        n = 1
    return np.arange(n + 1, dtype=np.int64) * n_positions // n


def divide(kernel: Callable[..., None], in_parts: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel for all parts: as it is where there is one, else side by side.

    Args:
        kernel: Called with the arguments and a part's number.
        in_parts: The same for all parts, a parallel kernel; called with the arguments.
        arguments: What the kernel takes, the bounds of the parts last.
    """
    n_parts = len(arguments[-1]) - 1
    if n_parts == 1:
        kernel(*arguments, 0)
        return
    with team_of(n_parts):
        in_parts(*arguments)


@contextmanager
def team_of(n: int) -> Iterator[None]:
    """So many threads for a parallel kernel, as far as Numba has them.

    Args:
        n: How many.
    """
    before = numba.get_num_threads()
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@cache
def threads_work() -> bool:
    """Whether parallel kernels run here, and may be called from several threads at once.

    They are tried in a thread of their own, which ends with that: where Numba has them for the first time, it sets how
    many threads OpenMP takes in the calling thread, and where its OpenMP is torch's, torch's with it.
    """
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(_tried).result()


def _tried() -> bool:
    found = np.zeros(2, dtype=np.int64)
    try:
        _number(found)
        return numba.threading_layer() in _SAFE_LAYERS and found.tolist() == [1, 2]
    except Exception:  # Numba raises whatever its compiler and the library of threads do
        return False


@parallel_kernel
@no_type_check
def _number(found):
    for place in numba.prange(len(found)):
        found[place] = place + 1
