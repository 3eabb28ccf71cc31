"""The C library's heap, where it is one that can be told what to do: glibc's, on Linux.

glibc gives each thread a heap of its own, and keeps in it what the thread has freed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_M_ARENA_MAX = -8  # of malloc.h


def share_heap() -> bool:
    """Let threads to come share the heaps that there are, where the C library can be told so and was not told else.

    Returns:
        Whether it was told. `MALLOC_ARENA_MAX` in the environment goes first.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    mallopt = _of_c_library("mallopt")
    return mallopt is not None and mallopt(_M_ARENA_MAX, 1) == 1


def hand_back() -> None:
    """Hand freed memory back to the system, as far as the C library can."""
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_c_library(name: str) -> Callable[..., int] | None:
    """A function of the C library, or None where there is none of that name, or no Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
