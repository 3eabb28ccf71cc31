"""Kernels for CUDA, written in Triton: gathered products, dense products of few rows, norms.

They come in through `circuitgraph.forward.engine.choose.engine_for`, which tries them for a GPU alone, since
importing Triton takes a second. Triton comes with torch for CUDA; without it nothing here works, and torch's own
operators do it all.
"""

from __future__ import annotations

import torch

from circuitgraph.forward.engine.cuda import dense, gathered, norms
from circuitgraph.forward.engine.cuda.compiler import triton

__all__ = ["dense", "gathered", "norms", "work_on"]


def work_on(device: torch.device) -> bool:
    """Whether the kernels can be compiled for a device and give the right results, found out by running each once.

    Args:
        device: Where they would run. The host waits for it this once.
    """
    if triton is None:
        return False
    try:
        return gathered.say_right(device) and dense.say_right(device) and norms.say_right(device)
    except Exception:  # Triton raises whatever its compilers, the C compiler for its launcher and the driver do
        return False
