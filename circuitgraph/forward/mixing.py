"""The two products of the stream: mixing rows of a buffer, and dotting rows of two buffers.

Each has a dense and a sparse way. Which is taken depends on the gates alone, by fixed thresholds, so the
same gates take the same way and give the same bits.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Below this share of non-zero coefficients, adding rows one by one beats the matrix product on a CPU
# (measured; docs/performance.md). On CUDA a launch a row never pays.
_SPARSE_SHARE = 0.12


def add_mixed(
    out: Float[Tensor, "to batch seq width"],
    coefficients: Float[Tensor, "to source"],
    rows: Float[Tensor, "source batch seq width"],
    host: np.ndarray,
) -> None:
    """`out += coefficients @ rows`, in place.

    Args:
        out: What to add to.
        coefficients: The matrix, on the device.
        rows: The rows to mix.
        host: The same matrix on the host, which decides how to go about it.
    """
    occupied = host != 0
    count = int(occupied.sum())
    if not count:
        return
    if out.device.type == "cpu" and count < _SPARSE_SHARE * host.size:
        for to, source in zip(*np.nonzero(occupied), strict=True):
            out[to].add_(rows[source], alpha=float(host[to, source]))
        return
    n = out.shape[1]
    if out.device.type == "cpu" and n > 1:
        # One product a prompt keeps its operands in cache; the single wide product is half as fast.
        wide = rows.flatten(2).transpose(0, 1)
        out.flatten(2).transpose(0, 1).baddbmm_(coefficients.expand(n, *coefficients.shape), wide)
    else:
        out.flatten(1).addmm_(coefficients, rows.flatten(1))


def dot_pairs(
    a: Float[Tensor, "left batch seq width"], b: Float[Tensor, "right batch seq width"], wanted: np.ndarray
) -> Float[Tensor, "left right"]:
    """Dot products of rows of `a` with rows of `b`.

    Args:
        a: Rows.
        b: Rows.
        wanted: Booleans `[left right]` on the host; other entries may hold anything.

    Returns:
        The products.
    """
    if a.device.type == "cpu" and int(wanted.sum()) < _SPARSE_SHARE * wanted.size:
        dots = torch.zeros(wanted.shape, dtype=a.dtype)
        left, right = a.flatten(1), b.flatten(1)
        for i, j in zip(*np.nonzero(wanted), strict=True):
            dots[i, j] = torch.dot(left[i], right[j])
        return dots
    return a.flatten(1) @ b.flatten(1).T
