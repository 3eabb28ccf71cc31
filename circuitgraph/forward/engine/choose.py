"""The doors to the kernels: `cuda` in Triton for a GPU, `cpu` in Numba for the host.

Each package takes its compiler along, which takes a second to import; so a door imports it when it is first asked for a
device of that kind. Where the compiler is missing or does not work, torch's own operators do it all.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

SWITCH = "CIRCUITGRAPH_CPU_KERNELS"
"""Set to 0 in the environment, it leaves the CPU's kernels out."""
_CPU_DTYPES = (torch.float32, torch.float64)


@cache
def kernels_on(device: torch.device) -> ModuleType | None:
    """The package of kernels for a GPU; None where there are none, or where they do not work.

    Args:
        device: Where they would run; a GPU's first question has them compiled and tried, which takes seconds.
    """
    if device.type != "cuda":
        return None
    from circuitgraph.forward.engine import cuda  # takes Triton along, which nothing else here needs

    if cuda.work_on(device):
        return cuda
    warnings.warn(
        f"the kernels for {device} could not be compiled, or are not right (is Triton there, and a C compiler?): "
        "products and norms are torch's own, which takes longer",
        stacklevel=2,
    )
    return None


def cpu_kernels(*tensors: Tensor) -> ModuleType | None:
    """The package of kernels for a CPU, where it takes such tensors; None where it does not, or is not there.

    Args:
        tensors: What would be worked on, each in one piece.
    """
    first = tensors[0]
    if first.device.type != "cpu" or first.dtype not in _CPU_DTYPES:
        return None
    if not all(rows.dtype == first.dtype and rows.is_contiguous() for rows in tensors):
        return None
    return _cpu_package()


def cpu_kernels_installed() -> bool:
    """Whether a CPU has kernels here, without trying them."""
    return os.environ.get(SWITCH) != "0" and find_spec("numba") is not None


@cache
def _cpu_package() -> ModuleType | None:
    """The package, if Numba is installed and the kernels say what they should."""
    if not cpu_kernels_installed():
        return None
    from circuitgraph.forward.engine import cpu  # takes Numba along

    if cpu.numba is None:
        return None
    if cpu.work():
        return cpu
    warnings.warn(
        f"the kernels for the CPU could not be compiled, or are not right (pip install -U numba, or {SWITCH}=0): "
        "products and norms are torch's own, which takes longer",
        stacklevel=2,
    )
    return None
