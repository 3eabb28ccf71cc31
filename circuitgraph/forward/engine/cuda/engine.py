"""The engine for CUDA: products by kernels that gather rows or take few of them, else the library's; norms by kernels.

All are bound by what they move there, so it is counted, in rows. What counts is known on the host: nothing is waited
for. The thresholds were measured (docs/performance.md).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.norm import Norm
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.cuda import dense, gathered, norms
from circuitgraph.forward.engine.engine import Moments
from circuitgraph.forward.engine.plain import PlainEngine, lay
from circuitgraph.forward.engine.rows import run_of
from circuitgraph.transfer import to_device

MIX_GATHER_BELOW = (1.4, 3.0)
"""Mixing gathers rows where it moves less than this many times what a dense product moves; the second where more rows
are mixed into than the dense kernels take. A row that is read again comes from the cache, and the library's dense
product gets a third of the memory's rate with many rows, so more may be moved."""
DOT_GATHER_BELOW = (2.0, 4.0)
"""The same for dots, of which each reads two rows."""


class CudaEngine(PlainEngine):
    """Sums by kernels for CUDA, where they take the format; the rest is torch's."""

    name = "cuda"

    def mix(
        self,
        out: Float[Tensor, "to position width"],
        base: Tensor | None,
        coefficients: Coefficients,
        rows: Float[Tensor, "source position width"],
    ) -> None:
        """`out = base + coefficients @ rows`."""
        if not len(out):
            return
        present = coefficients.present
        gathers = gathered.take(out, rows) and mixing_gathers(present)
        if not gathers and dense.can_multiply(out, rows):
            below = base if base is None or base is out else base.expand(out.shape[1:]).contiguous()
            dense.mix_dense(out, below, coefficients.matrix, rows)
            return
        lay(out, base)
        if not present.any():
            return
        if gathers:
            gathered.add_gathered(out, coefficients.matrix, rows, present)
        else:
            out.flatten(1).addmm_(coefficients.matrix, rows.flatten(1))

    def dots(
        self, left: Float[Tensor, "left position width"], right: Float[Tensor, "right position width"], pairs: Pairs
    ) -> Float[Tensor, " pair"]:
        """Dot products of rows."""
        if gathered.take(left, right) and dots_gather(pairs.wanted):
            return gathered.gathered_dots(left, right, pairs.wanted)
        if dense.can_multiply(left, right):
            found = dense.dots_dense(left, right)
        else:
            found = left.flatten(1) @ right.flatten(1).T
        return found.flatten().index_select(0, to_device(np.flatnonzero(pairs.wanted), left.device))

    def project(
        self,
        out: Float[Tensor, "row position taken"],
        x: Float[Tensor, "row position given"],
        weights: Float[Tensor, "head given taken"],
        heads: np.ndarray,
    ) -> None:
        """`out[i] = x[i] @ weights[heads[i]]`: others than neighbouring heads are gathered, for a launch each costs."""
        if run_of(heads) is not None:
            super().project(out, x, weights, heads)
            return
        torch.bmm(x, weights.index_select(0, to_device(heads, x.device)), out=out)

    def norm_rows(
        self, norm: Norm, x: Float[Tensor, "reader position d_model"], out: Float[Tensor, "reader position d_model"]
    ) -> Moments | None:
        """Norm rows in one pass over memory, where the kernels take them."""
        if not takes(norm, x) or not norms.can_norm(out):
            return super().norm_rows(norm, x, out)
        assert norm.factor is not None
        means, scales = norms.norm_rows(x, norm.factor, norm.bias, norm.epsilon, out)
        return Moments(means=means, scales=scales)

    def norm_rows_back(
        self,
        norm: Norm,
        x: Float[Tensor, "reader position d_model"],
        moments: Moments | None,
        gradients: Float[Tensor, "reader position d_model"],
    ) -> None:
        """The way back of `norm_rows`."""
        if moments is None:
            super().norm_rows_back(norm, x, moments, gradients)
            return
        assert norm.factor is not None
        kept = moments.means, moments.scales
        norms.norm_rows_back(x, norm.factor, kept, gradients, gradients, centred=norm.kind == "layer")


def takes(norm: Norm, rows: Tensor) -> bool:
    """Whether the kernels norm such rows: a layer norm with a bias, or an RMS norm.

    Args:
        norm: The norm.
        rows: They.
    """
    known = norm.kind == "rms" or (norm.kind == "layer" and norm.bias is not None)
    return known and norm.weight is not None and norms.can_norm(rows)


def mixing_gathers(present: np.ndarray) -> bool:
    """Whether mixing by gathered rows moves little: each entry reads a row, each row with entries is read and written.

    Args:
        present: Booleans `[to source]`: coefficients that are not zero.

    Examples:
        Of 3 × 100 coefficients 50 are not zero, all in one row: 52 rows are moved, and 106 otherwise.

        >>> present = np.zeros((3, 100), dtype=bool)
        >>> present[1, ::2] = True
        >>> mixing_gathers(present), mixing_gathers(~present)
        (True, False)
    """
    moved = 2 * np.count_nonzero(present.any(1)) + np.count_nonzero(present)
    return bool(moved < MIX_GATHER_BELOW[len(present) > dense.MOST] * (present.shape[1] + 2 * len(present)))


def dots_gather(wanted: np.ndarray) -> bool:
    """Whether dots of gathered rows move little: each reads two.

    Args:
        wanted: Booleans `[left right]`.
    """
    return bool(2 * np.count_nonzero(wanted) < DOT_GATHER_BELOW[len(wanted) > dense.MOST] * sum(wanted.shape))
