"""Products by oneDNN, which comes with torch: float32, on a CPU.

Torch itself multiplies by MKL there. On an AMD processor with AVX-512 oneDNN was measured to be a tenth to a half
faster with the matrices of a masked pass; on one without steps took up to a third longer (docs/performance.md). It
takes weights laid out for it beforehand.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@cache
def onednn_works() -> bool:
    """Whether this build of torch multiplies by weights packed or not, found out by doing it once."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight = torch.arange(12 * 20, dtype=torch.float32).view(12, 20) / 240
    x = torch.arange(3 * 20, dtype=torch.float32).view(3, 20) / 60
    try:
        said = multiply(x, pack_weight(weight), None), multiply(x, weight, None), multiply(x, weight.T.clone().T, None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(one, x @ weight.T, rtol=1e-4, atol=1e-5) for one in said)


@cache
def onednn_pays() -> bool:
    """Whether this processor has AVX-512, without which MKL was measured to be faster."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def pack_weight(weight: Float[Tensor, "taken given"]) -> Any:
    """A copy of a weight, laid out for `multiply`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def multiply(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, without autograd.

    Args:
        x: What is multiplied `[… given]`.
        weight: Packed or not `[taken given]`; if not, it or its transpose lies in one piece: with strides of a slice
            this falls back to code a hundred times slower.
        bias: `[taken]`, or None.
    """
    if not x.numel():
        return x.new_zeros(*x.shape[:-1], weight.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
