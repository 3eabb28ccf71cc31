"""Triton, where it can be imported, and how a function becomes a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

triton: Any
tl: Any
try:
    import triton
    import triton.language as tl
except Exception:  # missing, or made for another torch or driver
    triton = tl = None


def kernel(*varying: str) -> Callable[[Callable], Any]:
    """A decorator that makes a kernel of a function; without Triton the function stays as it is, and is never called.

    Args:
        varying: Numbers among its arguments for all of whose values one compiled kernel will do.
    """
    if triton is None:
        return lambda function: function
    return triton.jit(do_not_specialize=list(varying))
