"""The door to `circuitgraph.forward.kernels`, opened for a GPU alone."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

import torch


@cache
def kernels_on(device: torch.device) -> ModuleType | None:
    """The package of kernels for a device; None where there are none, or where they do not work.

    Args:
        device: Where they would run; a GPU's first question has them compiled and tried, which takes seconds.
    """
    if device.type != "cuda":
        return None
    from circuitgraph.forward import kernels  # takes Triton along, which nothing else here needs

    if kernels.work_on(device):
        return kernels
    warnings.warn(
        f"the kernels for {device} could not be compiled, or are not right (is Triton there, and a C compiler?): "
        "products and norms are torch's own, which takes longer",
        stacklevel=2,
    )
    return None
