"""What readers see, mixed and normed in one go on a CPU, and the way back.

Going forward, for every position and reader: what it sees is added up in a row that stays in the first-level cache, and
stored normed. Going back, it is added up once more, the gradient is taken through the norm where it lies, and while it
is in the cache the gates' gradients are taken with the deltas of the same position, and the readers whose sum was the
running one add theirs up. So a block's reads are written once each way, and nothing as large is made besides.

With s = 1 / sqrt(mean((x − m)²) + ε), x̂ = s (x − m) and h = weight · g, a row's gradient is

    RMS norm (m = 0):  s (h − x̂ mean(h · x̂))
    layer norm:        s (h − mean(h) − x̂ mean(h · x̂))
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.engine.cpu.compiler import kernel, numba, parallel_kernel
from circuitgraph.forward.engine.cpu.products import add_dots, add_mix
from circuitgraph.forward.engine.cpu.threads import bounds_of, divide
from circuitgraph.forward.engine.entries import Entries


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixed:
    """What some readers see: a base, for some of them the running sum, and deltas with coefficients.

    Attributes:
        base: The ablated residual stream `[position d_model]`, or `[1 d_model]` where it is the same everywhere.
        running: The sum of all deltas that the readers see `[position d_model]`; None where no reader takes it.
        takes_running: Booleans `[reader]`.
        entries: Coefficients `[reader slot]` that are not zero.
        matrix: All coefficients, where many are not zero.
        deltas: `[slot position d_model]`.
    """

    base: Tensor
    running: Tensor | None
    takes_running: np.ndarray
    entries: Entries
    matrix: np.ndarray | None
    deltas: Tensor

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of it, as the kernels take it."""
        base = self.base.contiguous().numpy()
        running = base if self.running is None else self.running.contiguous().numpy()
        entries = self.entries
        matrix = np.empty((0, 0), base.dtype) if self.matrix is None else self.matrix
        return (
            base, running.astype(base.dtype, copy=False), self.takes_running, matrix,
            entries.starts, entries.sources, entries.factors, self.deltas.numpy(),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """A norm of rows.

    Attributes:
        weight: `[d_model]`.
        bias: `[d_model]`, or None.
        epsilon: What is added to the mean of squares.
        centred: Whether the mean is taken off first, as a layer norm does.
    """

    weight: Tensor
    bias: Tensor | None
    epsilon: float
    centred: bool

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias."""
        weight = self.weight.detach().numpy()
        return weight, np.zeros_like(weight) if self.bias is None else self.bias.detach().numpy()


@kernel
@no_type_check
def _see(seen, position, base, running, takes_running, matrix, starts, sources, factors, deltas):
    """What all readers see at one position."""
    n_rows, width = seen.shape
    below = base[position if len(base) > 1 else 0]
    for row in range(n_rows):
        ours = seen[row]
        if takes_running[row]:
            more = running[position]
            for i in range(width):
                ours[i] = below[i] + more[i]
        else:
            ours[:] = below
    add_mix(seen, deltas, position, matrix, starts, sources, factors)


@kernel
@no_type_check
def _norm_mixed(
    out, means, scales, base, running, takes_running, matrix, starts, sources, factors, deltas,
    weight, bias, epsilon, centred, bounds, part,
):  # fmt: skip
    n_rows, _, width = out.shape
    rows = np.empty((n_rows, width), out.dtype)
    for position in range(bounds[part], bounds[part + 1]):
        _see(rows, position, base, running, takes_running, matrix, starts, sources, factors, deltas)
        for row in range(n_rows):
            seen = rows[row]
            mean = seen[0] * 0
            if centred:
                for i in range(width):
                    mean += seen[i]
                mean /= width
            squares = seen[0] * 0
            for i in range(width):
                squares += (seen[i] - mean) * (seen[i] - mean)
            scale = out.dtype.type(1 / sqrt(squares / width + epsilon))
            means[row, position], scales[row, position] = mean, scale
            normed = out[row, position]
            for i in range(width):
                normed[i] = (seen[i] - mean) * scale * weight[i] + bias[i]


@kernel
@no_type_check
def _pull_mixed(
    gradients, total, dots, means, scales, base, running, takes_running, matrix, starts, sources, factors, deltas,
    weight, centred, wanted_starts, wanted_sources, bounds, part,
):  # fmt: skip
    n_rows, _, width = gradients.shape
    rows, our_dots = np.empty((n_rows, width), gradients.dtype), dots[part]
    for position in range(bounds[part], bounds[part + 1]):
        _see(rows, position, base, running, takes_running, matrix, starts, sources, factors, deltas)
        for row in range(n_rows):
            seen, back = rows[row], gradients[row, position]
            mean, scale = means[row, position], scales[row, position]
            along = mean_back = seen[0] * 0
            for i in range(width):
                seen[i] = (seen[i] - mean) * scale
                back[i] *= weight[i]
                along += back[i] * seen[i]
                mean_back += back[i]
            along /= width
            mean_back = mean_back / width if centred else mean_back * 0
            for i in range(width):
                back[i] = scale * (back[i] - mean_back - seen[i] * along)
            if takes_running[row]:
                sum_ = total[position]
                for i in range(width):
                    sum_[i] += back[i]
            add_dots(our_dots, back, deltas, position, wanted_starts[row], wanted_starts[row + 1], wanted_sources)


@parallel_kernel
@no_type_check
def _norm_parts(
    out, means, scales, base, running, takes_running, matrix, starts, sources, factors, deltas,
    weight, bias, epsilon, centred, bounds,
):  # fmt: skip
    for part in numba.prange(len(bounds) - 1):
        _norm_mixed(
            out, means, scales, base, running, takes_running, matrix, starts, sources, factors, deltas,
            weight, bias, epsilon, centred, bounds, part,
        )  # fmt: skip


@parallel_kernel
@no_type_check
def _pull_parts(
    gradients, total, dots, means, scales, base, running, takes_running, matrix, starts, sources, factors, deltas,
    weight, centred, wanted_starts, wanted_sources, bounds,
):  # fmt: skip
    for part in numba.prange(len(bounds) - 1):
        _pull_mixed(
            gradients, total, dots, means, scales, base, running, takes_running, matrix, starts, sources, factors,
            deltas, weight, centred, wanted_starts, wanted_sources, bounds, part,
        )  # fmt: skip


def norm_mixed(
    mixed: Mixed, norm: Norm, out: Float[Tensor, "reader position d_model"]
) -> tuple[np.ndarray, np.ndarray]:
    """What readers see, normed.

    Args:
        mixed: What they see.
        norm: Their norm.
        out: Where it goes.

    Returns:
        Each row's mean and scale, for `pull_mixed`.
    """
    into = out.numpy()
    moments = np.empty((2, *into.shape[:2]), into.dtype)
    bounds = bounds_of(into.shape[1], _numbers(into, mixed.entries))
    arguments = (into, *moments, *mixed.arrays, *norm.arrays, norm.epsilon, norm.centred, bounds)
    divide(_norm_mixed, _norm_parts, *arguments)
    return moments[0], moments[1]


def pull_mixed(
    gradients: Float[Tensor, "reader position d_model"],
    mixed: Mixed,
    norm: Norm,
    moments: tuple[np.ndarray, np.ndarray],
    wanted: Entries,
    total: Float[Tensor, "position d_model"] | None,
) -> np.ndarray:
    """The gradient of what readers saw from that of what it was normed to, where it lies.

    Args:
        gradients: Overwritten.
        mixed: What they saw.
        norm: Their norm.
        moments: From `norm_mixed`.
        wanted: Gates whose gradients are wanted `[reader slot]`; `sources` may be those of more readers.
        total: The gradients of readers that take the running sum are added to it; None where none does.

    Returns:
        The gradients of the wanted gates in their order, in float64.
    """
    back = gradients.numpy()
    sums = back[0] if total is None else total.numpy()  # of the same format always, so one kernel does for both
    offset, stop = int(wanted.starts[0]), int(wanted.starts[-1])
    starts, sources = wanted.starts - offset, wanted.sources[offset:stop]
    bounds = bounds_of(back.shape[1], _numbers(back, mixed.entries) + len(sources) * back[0].size)
    dots = np.zeros((len(bounds) - 1, len(sources)))
    arguments = (*moments, *mixed.arrays, norm.arrays[0], norm.centred, starts, sources, bounds)
    divide(_pull_mixed, _pull_parts, back, sums, dots, *arguments)
    return dots.sum(0)


def _numbers(rows: np.ndarray, entries: Entries) -> int:
    """How many numbers are read and written."""
    return (2 * len(rows) + int(entries.starts[-1] - entries.starts[0])) * rows[0].size if len(rows) else 0


def say_right() -> bool:
    """Whether the kernels give torch's own results."""
    generator = torch.Generator().manual_seed(0)
    base, running = torch.randn(2, 3, 24, generator=generator)
    deltas = torch.randn(6, 3, 24, generator=generator)
    weight, bias = torch.randn(2, 24, generator=generator)
    given = torch.randn(2, 3, 24, generator=generator)
    matrix = torch.randn(2, 6, generator=generator) * (torch.rand(2, 6, generator=generator) < 0.8)
    takes = np.array([True, False])
    wanted = Entries.of(np.ones((2, 6)), np.dtype("float32"))
    seen = (
        base + torch.from_numpy(takes)[:, None, None] * running + torch.einsum("rs,scw->rcw", matrix, deltas)
    ).double()
    right = True
    for centred in (False, True):
        mixed = Mixed(
            base=base, running=running, takes_running=takes, deltas=deltas, matrix=matrix.numpy() if centred else None,
            entries=Entries.of(matrix.numpy(), np.dtype("float32")),
        )  # fmt: skip
        norm = Norm(weight=weight, bias=bias if centred else None, epsilon=1e-5, centred=centred)
        out, back, total = torch.empty(2, 3, 24), given.clone(), torch.zeros(3, 24)
        moments = norm_mixed(mixed, norm, out)
        dots = pull_mixed(back, mixed, norm, moments, wanted, total)
        leaf = seen.clone().requires_grad_()
        with torch.enable_grad():
            apart = leaf - leaf.mean(-1, keepdim=True) if centred else leaf
            normed = apart * (apart.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
            normed = normed + bias if centred else normed
            (pulled,) = torch.autograd.grad(normed, leaf, given.double())
        pairs = (
            (out, normed.detach()), (back, pulled), (total, pulled[0]),
            (torch.from_numpy(dots), torch.einsum("rcw,scw->rs", pulled, deltas.double()).flatten()),
        )  # fmt: skip
        right &= all(torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-4) for ours, theirs in pairs)
    return right
