"""Numba, where it can be imported, and how a function becomes a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

numba: Any
try:
    import numba
except Exception:  # missing, or made for another numpy
    numba = None

_REORDERED = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be taken in another order, which vectors need; what is not finite stays so, and is seen."""


def kernel(function: Callable) -> Any:
    """Make a kernel of a function, compiled when it is first called and kept on disk; other threads run beside it.

    Args:
        function: What it does; without Numba it stays as it is, and is never called.
    """
    return _compiled(function)


def parallel_kernel(function: Callable) -> Any:
    """Make a kernel whose `prange` is divided among threads.

    Args:
        function: What it does.
    """
    return _compiled(function, parallel=True)


def _compiled(function: Callable, **options: bool) -> Any:
    if numba is None:
        return function
    options |= {"nogil": True, "fastmath": _REORDERED}  # type: ignore[dict-item]
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder can anything be written
        return numba.njit(**options)(function)
