"""The engine for a CPU: products by Numba's kernels, and reads mixed and normed in one go, both ways."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.norm import Norm
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.cpu import products, reads
from circuitgraph.forward.engine.engine import Moments, Sums
from circuitgraph.forward.engine.entries import Entries
from circuitgraph.forward.engine.plain import PlainEngine

DTYPES = (torch.float32, torch.float64)
"""Formats that the kernels take."""
DENSE_FROM = 0.5
"""From this share of non-zeros on, all rows are mixed (docs/performance.md)."""
DOTS_BELOW = 0.6
"""Below this share of wanted pairs, dots are taken by kernels, else by torch's product."""


class CpuEngine(PlainEngine):
    """Sums by kernels for a CPU, in float32 and float64; norms that they do not know are the module's."""

    name = "cpu"

    def mix(
        self,
        out: Float[Tensor, "to position width"],
        base: Tensor | None,
        coefficients: Coefficients,
        rows: Float[Tensor, "source position width"],
    ) -> None:
        """`out = base + coefficients @ rows`."""
        if len(out):
            products.mix(out, base, coefficients.entries, rows, dense_matrix(coefficients))

    def dots(
        self, left: Float[Tensor, "left position width"], right: Float[Tensor, "right position width"], pairs: Pairs
    ) -> Float[Tensor, " pair"]:
        """Dot products of rows, in float64 where kernels take them."""
        if pairs.share < DOTS_BELOW:
            return products.dots_of(left, right, pairs.entries)
        return super().dots(left, right, pairs)

    def read(
        self,
        sums: Sums,
        norm: Norm,
        out: Float[Tensor, "reader position d_model"],
        room: Float[Tensor, "reader position d_model"],
    ) -> Moments | None:
        """What readers see, normed."""
        if not takes(norm, out):
            return super().read(sums, norm, out, room)
        means, scales = reads.norm_mixed(_mixed(sums), _norm(norm), out)
        return Moments(means=torch.from_numpy(means), scales=torch.from_numpy(scales))

    def pull(
        self,
        sums: Sums,
        norm: Norm,
        moments: Moments | None,
        gradients: Float[Tensor, "reader position d_model"],
        pairs: Pairs,
        running: Float[Tensor, "position d_model"] | None,
        room: Float[Tensor, "reader position d_model"],
    ) -> Float[Tensor, " pair"]:
        """The way back of `read`, the gates' gradients in the same go where few are wanted."""
        if moments is None:
            return super().pull(sums, norm, moments, gradients, pairs, running, room)
        fused = pairs.share < DOTS_BELOW
        asked = pairs.entries if fused else Entries.none(len(gradients))
        kept = moments.means.numpy(), moments.scales.numpy()
        total = running if sums.takes_running.any() else None
        dots = reads.pull_mixed(gradients, _mixed(sums), _norm(norm), kept, asked, total)
        return torch.from_numpy(dots) if fused else self.dots(gradients, sums.deltas, pairs)


def takes(norm: Norm, rows: Tensor) -> bool:
    """Whether the kernels' norm of rows is the module's: a layer or RMS norm in the rows' own format.

    Args:
        norm: The norm.
        rows: Gives the format.
    """
    if norm.kind == "none" or norm.weight is None or norm.weight.dtype != rows.dtype:
        return False
    return not (norm.in_float32 and rows.dtype != torch.float32)


def dense_matrix(coefficients: Coefficients) -> np.ndarray | None:
    """All coefficients, where so many are not 0 that going through all of them pays.

    Args:
        coefficients: They.
    """
    matrix = coefficients.matrix.numpy()
    starts = coefficients.entries.starts
    return None if starts[-1] - starts[0] < DENSE_FROM * matrix.size else np.ascontiguousarray(matrix)


def _mixed(sums: Sums) -> reads.Mixed:
    return reads.Mixed(
        base=sums.base, running=sums.running, takes_running=sums.takes_running, deltas=sums.deltas,
        entries=sums.coefficients.entries, matrix=dense_matrix(sums.coefficients),
    )  # fmt: skip


def _norm(norm: Norm) -> reads.Norm:
    assert norm.factor is not None
    return reads.Norm(weight=norm.factor, bias=norm.bias, epsilon=norm.epsilon, centred=norm.kind == "layer")
