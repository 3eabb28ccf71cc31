"""Kernels for a CPU, written in Numba: the two products of the stream, and reads mixed and normed in one go.

They come in through `circuitgraph.forward.engine.choose.engine_for`, since importing Numba takes half a second. They
are compiled when they are first used, and kept on disk for the next process. Without Numba the plain
engine does it all.
"""

from __future__ import annotations

from circuitgraph.forward.engine.cpu import products, reads
from circuitgraph.forward.engine.cpu.compiler import numba

__all__ = ["numba", "products", "reads", "work"]


def work() -> bool:
    """Whether the kernels can be compiled here and give the right results, found out by running each once."""
    try:
        return products.say_right() and reads.say_right()
    except Exception:  # Numba raises whatever its compiler does
        return False
