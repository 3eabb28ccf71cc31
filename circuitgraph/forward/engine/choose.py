"""The engine for a device and a number format, chosen once.

The engines of kernels take their compiler along, which takes a second to import; so each is imported when it is first
asked for. Where the compiler is missing or does not work, the plain engine does it all.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from circuitgraph.forward.engine.engine import Engine
from circuitgraph.forward.engine.plain import PlainEngine

SWITCH = "CIRCUITGRAPH_CPU_KERNELS"
"""Set to 0 in the environment, it leaves the CPU's kernels out."""
_CPU_DTYPES = (torch.float32, torch.float64)


@cache
def engine_for(device: torch.device, dtype: torch.dtype) -> Engine:
    """How sums are computed on a device.

    Args:
        device: Where the model lies. The first question for a GPU or a CPU has its kernels compiled and tried, which
            takes seconds.
        dtype: The model's number format.

    Examples:
        >>> engine_for(torch.device("meta"), torch.float32).name, engine_for(torch.device("cpu"), torch.bfloat16).name
        ('plain', 'plain')
    """
    if device.type == "cuda":
        return _cuda_engine(device)
    if device.type == "cpu" and dtype in _CPU_DTYPES:
        return _cpu_engine()
    return PlainEngine()


def cpu_kernels_installed() -> bool:
    """Whether a CPU has kernels here, without trying them."""
    return os.environ.get(SWITCH) != "0" and find_spec("numba") is not None


@cache
def _cuda_engine(device: torch.device) -> Engine:
    from circuitgraph.forward.engine import cuda  # takes Triton along, which nothing else here needs

    if cuda.work_on(device):
        from circuitgraph.forward.engine.cuda.engine import CudaEngine

        return CudaEngine()
    warnings.warn(
        f"the kernels for {device} could not be compiled, or are not right (is Triton there, and a C compiler?): "
        "products and norms are torch's own, which takes longer",
        stacklevel=2,
    )
    return PlainEngine()


@cache
def _cpu_engine() -> Engine:
    """The one with kernels, if Numba is installed and they compute what they should."""
    if not cpu_kernels_installed():
        return PlainEngine()
    from circuitgraph.forward.engine import cpu  # takes Numba along

    if cpu.numba is None:
        return PlainEngine()
    if cpu.work():
        from circuitgraph.forward.engine.cpu.engine import CpuEngine

        return CpuEngine()
    warnings.warn(
        f"the kernels for the CPU could not be compiled, or are not right (pip install -U numba, or {SWITCH}=0): "
        "products and norms are torch's own, which takes longer",
        stacklevel=2,
    )
    return PlainEngine()
