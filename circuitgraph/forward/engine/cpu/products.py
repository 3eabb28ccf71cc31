"""The two products of the stream on a CPU.

Both go position by position, so that a position's rows stay in the cache, and take some sources at a time, so that
what is added up is loaded and stored once for all of them:

1. mixing, `out = base + C rows`. Where few coefficients are not zero no other row is read; where many are, some
   sources are loaded and added to all rows of `out` before the next;
2. dots of wanted pairs, whose sums over a position are in the rows' own format and are added up in float64.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.engine.cpu.compiler import kernel, numba, parallel_kernel
from circuitgraph.forward.engine.cpu.threads import bounds_of, divide
from circuitgraph.forward.engine.entries import Entries


@kernel
@no_type_check
def add_entries(into, rows, position, start, stop, sources, factors):
    """`into += Σ factor · rows[source, position]` over some entries."""
    width = len(into)
    entry = start
    while entry + 4 <= stop:
        f_0, f_1, f_2, f_3 = factors[entry], factors[entry + 1], factors[entry + 2], factors[entry + 3]
        x_0, x_1 = rows[sources[entry], position], rows[sources[entry + 1], position]
        x_2, x_3 = rows[sources[entry + 2], position], rows[sources[entry + 3], position]
        for i in range(width):
            into[i] += f_0 * x_0[i] + f_1 * x_1[i] + f_2 * x_2[i] + f_3 * x_3[i]
        entry += 4
    while entry < stop:
        f_0, x_0 = factors[entry], rows[sources[entry], position]
        for i in range(width):
            into[i] += f_0 * x_0[i]
        entry += 1


@kernel
@no_type_check
def add_dense(into, rows, position, matrix):
    """`into[to] += Σ matrix[to, source] · rows[source, position]` over all sources."""
    n_to, width = into.shape
    source = 0
    while source + 6 <= len(rows):
        x_0, x_1, x_2 = rows[source, position], rows[source + 1, position], rows[source + 2, position]
        x_3, x_4, x_5 = rows[source + 3, position], rows[source + 4, position], rows[source + 5, position]
        for to in range(n_to):
            f, total = matrix[to, source : source + 6], into[to]
            f_0, f_1, f_2, f_3, f_4, f_5 = f[0], f[1], f[2], f[3], f[4], f[5]
            for i in range(width):
                total[i] += f_0 * x_0[i] + f_1 * x_1[i] + f_2 * x_2[i] + f_3 * x_3[i] + f_4 * x_4[i] + f_5 * x_5[i]
        source += 6
    while source < len(rows):
        x_0 = rows[source, position]
        for to in range(n_to):
            f_0, total = matrix[to, source], into[to]
            for i in range(width):
                total[i] += f_0 * x_0[i]
        source += 1


@kernel
@no_type_check
def add_mix(into, rows, position, matrix, starts, sources, factors):
    """Either of them, for all rows of `into`: dense where there is a matrix."""
    if len(matrix):
        add_dense(into, rows, position, matrix)
    else:
        for to in range(len(into)):
            add_entries(into[to], rows, position, starts[to], starts[to + 1], sources, factors)


@kernel
@no_type_check
def add_dots(dots, with_, rows, position, start, stop, sources):
    """`dots[entry] += with_ · rows[source, position]` for some entries."""
    width = len(with_)
    entry = start
    while entry + 4 <= stop:
        x_0, x_1 = rows[sources[entry], position], rows[sources[entry + 1], position]
        x_2, x_3 = rows[sources[entry + 2], position], rows[sources[entry + 3], position]
        s_0 = s_1 = s_2 = s_3 = with_[0] * 0
        for i in range(width):
            g = with_[i]
            s_0 += g * x_0[i]
            s_1 += g * x_1[i]
            s_2 += g * x_2[i]
            s_3 += g * x_3[i]
        dots[entry] += s_0
        dots[entry + 1] += s_1
        dots[entry + 2] += s_2
        dots[entry + 3] += s_3
        entry += 4
    while entry < stop:
        x_0 = rows[sources[entry], position]
        s_0 = with_[0] * 0
        for i in range(width):
            s_0 += with_[i] * x_0[i]
        dots[entry] += s_0
        entry += 1


@kernel
@no_type_check
def _mix(out, base, base_is, matrix, starts, sources, factors, rows, bounds, part):
    """`base_is`: 0 nothing, 1 `out` itself, 2 a row of `base` for all positions, 3 one for each."""
    n_to, _, width = out.shape
    mixed = np.empty((n_to, width), out.dtype)
    for position in range(bounds[part], bounds[part + 1]):
        for to in range(n_to):
            if base_is == 0:
                mixed[to] = 0
            elif base_is == 1:
                mixed[to] = out[to, position]
            else:
                mixed[to] = base[position if base_is == 3 else 0]
        add_mix(mixed, rows, position, matrix, starts, sources, factors)
        for to in range(n_to):
            out[to, position] = mixed[to]


@kernel
@no_type_check
def _dots(dots, left, right, starts, sources, bounds, part):
    ours = dots[part]
    for position in range(bounds[part], bounds[part + 1]):
        for row in range(len(left)):
            add_dots(ours, left[row, position], right, position, starts[row], starts[row + 1], sources)


@parallel_kernel
@no_type_check
def _mix_parts(out, base, base_is, matrix, starts, sources, factors, rows, bounds):
    for part in numba.prange(len(bounds) - 1):
        _mix(out, base, base_is, matrix, starts, sources, factors, rows, bounds, part)


@parallel_kernel
@no_type_check
def _dots_parts(dots, left, right, starts, sources, bounds):
    for part in numba.prange(len(bounds) - 1):
        _dots(dots, left, right, starts, sources, bounds, part)


def mix(
    out: Float[Tensor, "to position width"],
    base: Tensor | None,
    entries: Entries,
    rows: Float[Tensor, "source position width"],
    matrix: Float[np.ndarray, "to source"] | None = None,
) -> None:
    """`out = base + coefficients @ rows`.

    Args:
        out: Where it goes.
        base: What is added to: `out` itself, `[position width]`, `[1 width]` the same for all, or None for nothing.
        entries: The coefficients that are not zero.
        rows: The rows to mix.
        matrix: All coefficients, where many are not zero.
    """
    kind = 0 if base is None else 1 if base is out else 2 if len(base) == 1 else 3
    into, given = out.numpy(), rows.numpy()
    added = into[0] if base is None or base is out else base.contiguous().numpy()
    dense = np.empty((0, 0), into.dtype) if matrix is None else matrix
    numbers = (len(into) + int(entries.starts[-1] - entries.starts[0])) * into[0].size
    bounds = bounds_of(into.shape[1], numbers)
    arguments = (into, added, kind, dense, entries.starts, entries.sources, entries.factors, given, bounds)
    divide(_mix, _mix_parts, *arguments)


def dots_of(
    left: Float[Tensor, "left position width"], right: Float[Tensor, "right position width"], wanted: Entries
) -> Float[Tensor, " wanted"]:
    """Dot products of rows, positions and widths in one.

    Args:
        left: Rows.
        right: Rows.
        wanted: Which pairs.

    Returns:
        The wanted products in their order, in float64.
    """
    ours, theirs = left.numpy(), right.numpy()
    count = len(wanted.sources)
    bounds = bounds_of(ours.shape[1], (len(ours) + count) * ours[0].size if len(ours) else 0)
    found = np.zeros((len(bounds) - 1, count))
    divide(_dots, _dots_parts, found, ours, theirs, wanted.starts, wanted.sources, bounds)
    return torch.from_numpy(found.sum(0))


def say_right() -> bool:
    """Whether the kernels give the right results."""
    rows = (torch.arange(7 * 2 * 21, dtype=torch.float32).view(7, 2, 21) % 5) - 2
    matrix = np.arange(3 * 7).reshape(3, 7) % 4
    entries = Entries.of(matrix, np.dtype("float32"))
    flat = rows.flatten(1)
    mixed = flat[3] + torch.from_numpy(matrix).float() @ flat
    right = True
    for dense in (None, matrix.astype(np.float32)):
        out = torch.empty(3, 2, 21)
        mix(out, rows[3], entries, rows, dense)
        right &= torch.equal(out.flatten(1), mixed)
    dots = dots_of(rows[:3].contiguous(), rows, entries)
    return right and torch.equal(dots, (flat[:3] @ flat.T)[torch.from_numpy(matrix != 0)].double())
