"""Products by oneDNN, which comes with torch: float32, on a CPU.

Torch itself multiplies by MKL there. On an AMD processor with AVX-512 oneDNN was measured to be a tenth to a half
faster with the matrices of a masked pass; on one without, and on one of Intel's with it, it is slower
(docs/performance.md).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_CPU_INFO = Path("/proc/cpuinfo")


@cache
def onednn_works() -> bool:
    """Whether this build of torch has oneDNN's products, found out by taking some."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight = torch.arange(12 * 20, dtype=torch.float32).view(12, 20) / 240
    x = torch.arange(3 * 20, dtype=torch.float32).view(3, 20) / 60
    try:
        found = multiply(x, weight), multiply(x, weight.T.clone().T)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(one, x @ weight.T, rtol=1e-4, atol=1e-5) for one in found)


@cache
def onednn_pays() -> bool:
    """Whether oneDNN is faster than MKL here: on a processor with AVX-512 that is not Intel's."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and not made_by_intel()


def made_by_intel() -> bool:
    """Whether the processor is Intel's, as far as the system tells."""
    return _CPU_INFO.is_file() and "GenuineIntel" in _CPU_INFO.read_text()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, without autograd.

    Args:
        x: What is multiplied `[… given]`.
        weight: `[taken given]`; it or its transpose lies in one piece: with strides of a slice this falls back to code
            a hundred times slower.
        bias: `[taken]`, or None.
    """
    if not x.numel():
        return x.new_zeros(*x.shape[:-1], weight.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
