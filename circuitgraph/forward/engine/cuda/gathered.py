"""The two products of the stream on CUDA where few coefficients are not zero: kernels that gather the rows they need.

A dense product moves every row of its operands. Where a row of coefficients has a handful of non-zeros, reading just
the rows that they name moves less, and both products here are bound by what they move:

1. mixing, `out[i] += Σ_j c_ij rows[j]`: a program takes one row of `out` and a block of columns, adds up in float32 and
   stores once; rows without a non-zero are not touched. The host knows where non-zeros are, the device what they are;
2. dots, `a[i] · b[j]`: a program takes one wanted pair and a chunk of columns; the chunks' sums are then added up in
   one order, so that the same input gives the same bits.

Programs that differ in their row alone follow one another, so a block of a row that several of them want is read from
memory about once. `circuitgraph.forward.engine.cuda.engine` decides when a gathered product is taken.

Columns are positions and widths in one.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from circuitgraph.forward.engine.cuda.compiler import kernel, tl
from circuitgraph.transfer import to_device

BLOCK = 2048
"""Columns that a program takes at a time."""
WARPS = 8
"""Warps of a program: with bfloat16 rows each thread has one load of 16 bytes per row."""
STEPS = 8
"""Blocks of columns in a chunk of a dot."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Formats of rows that the kernels take."""


@kernel()
@no_type_check
def _read_entry(rows, coefficients, sources, entry, stop, rows_stride, source_stride, columns, inside):
    """An entry's coefficient, and a block of the row that it names; zeros for what lies behind the last entry."""
    there = entry < stop
    source = tl.load(sources + entry, mask=there, other=0).to(tl.int64)
    coefficient = tl.load(coefficients + source * source_stride, mask=there, other=0.0).to(tl.float32)
    return coefficient, tl.load(rows + source * rows_stride + columns, mask=inside & there, other=0.0)


@kernel("n_rows", "to_stride", "source_stride")
@no_type_check
def _mix_kernel(
    out, coefficients, rows, table, n_rows, n_columns, out_stride, rows_stride, to_stride, source_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add what one row's entries name to one block of it; `table` is that of `mixing_table`."""
    program = tl.program_id(0)
    row = program % n_rows
    columns = (program // n_rows).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n_columns
    to = tl.load(table + 3 * row).to(tl.int64)
    start = tl.load(table + 3 * row + 1)
    stop = tl.load(table + 3 * row + 2)
    sources = table + 3 * n_rows
    ours = coefficients + to * to_stride
    place = out + to * out_stride + columns
    total = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    for entry in range(start, stop, 4):
        # Four at a time, and read before anything is added, so that their loads are under way together.
        c_0, x_0 = _read_entry(rows, ours, sources, entry, stop, rows_stride, source_stride, columns, inside)
        c_1, x_1 = _read_entry(rows, ours, sources, entry + 1, stop, rows_stride, source_stride, columns, inside)
        c_2, x_2 = _read_entry(rows, ours, sources, entry + 2, stop, rows_stride, source_stride, columns, inside)
        c_3, x_3 = _read_entry(rows, ours, sources, entry + 3, stop, rows_stride, source_stride, columns, inside)
        total += c_0 * x_0.to(tl.float32)
        total += c_1 * x_1.to(tl.float32)
        total += c_2 * x_2.to(tl.float32)
        total += c_3 * x_3.to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)


@kernel("n_pairs", "n_chunks")
@no_type_check
def _dot_kernel(
    a, b, pairs, sums, n_pairs, n_columns, n_chunks, a_stride, b_stride, BLOCK: tl.constexpr, STEPS: tl.constexpr
):
    """The sum of one pair's products over one chunk of columns; `pairs` holds two numbers of rows each."""
    program = tl.program_id(0)
    pair = program % n_pairs
    chunk = program // n_pairs
    left = tl.load(pairs + 2 * pair).to(tl.int64)
    right = tl.load(pairs + 2 * pair + 1).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for step in tl.static_range(STEPS):
        first = (chunk.to(tl.int64) * STEPS + step) * BLOCK
        inside = lane < n_columns - first
        ours = tl.load(a + left * a_stride + first + lane, mask=inside, other=0.0).to(tl.float32)
        theirs = tl.load(b + right * b_stride + first + lane, mask=inside, other=0.0).to(tl.float32)
        total += ours * theirs
    tl.store(sums + pair.to(tl.int64) * n_chunks + chunk, tl.sum(total, axis=0))


def add_gathered(
    out: Float[Tensor, "to position width"],
    coefficients: Float[Tensor, "to source"],
    rows: Float[Tensor, "source position width"],
    present: np.ndarray,
) -> None:
    """`out += coefficients @ rows`, in place and in float32, reading the rows of some coefficients alone.

    Args:
        out: What to add to; see `take`.
        coefficients: The matrix, on the device.
        rows: The rows to mix.
        present: Booleans `[to source]` on the host: where the matrix may not be zero.
    """
    table, n_rows = mixing_table(present)
    if not n_rows:
        return
    n_columns = out.shape[1] * out.shape[2]
    grid = (n_rows * -(-n_columns // BLOCK),)
    with torch.cuda.device_of(out):
        _mix_kernel[grid](
            out, coefficients, rows, to_device(table, out.device), n_rows, n_columns, out.stride(0), rows.stride(0),
            *coefficients.stride(), BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip


def gathered_dots(
    a: Float[Tensor, "left position width"], b: Float[Tensor, "right position width"], wanted: np.ndarray
) -> Float[Tensor, " wanted"]:
    """Dot products of rows of `a` with rows of `b`, reading the wanted rows alone.

    Args:
        a: Rows; see `take`.
        b: Rows.
        wanted: Booleans `[left right]` on the host.

    Returns:
        The wanted products in float32, in the order of `np.nonzero(wanted)`.
    """
    pairs = np.stack(_places(wanted), axis=1).astype(np.int32, order="C")
    n_columns = a.shape[1] * a.shape[2]
    n_chunks = -(-n_columns // (BLOCK * STEPS))
    sums = torch.empty(len(pairs), n_chunks, dtype=torch.float32, device=a.device)
    if len(pairs):
        with torch.cuda.device_of(a):
            _dot_kernel[(sums.numel(),)](
                a, b, to_device(pairs, a.device), sums, len(pairs), n_columns, n_chunks, a.stride(0), b.stride(0),
                BLOCK=BLOCK, STEPS=STEPS, num_warps=WARPS,
            )  # fmt: skip
    return sums.sum(1)


def mixing_table(present: np.ndarray) -> tuple[Int32[np.ndarray, " number"], int]:
    """What the mixing kernel reads beside the coefficients, in one array, so that it is sent at once.

    Args:
        present: Booleans `[to source]`.

    Returns:
        For each row with entries its number, its first entry and the one behind its last; then for each entry the
        number of the row that it reads. Also how many rows have entries.

    Examples:
        >>> table, n_rows = mixing_table(np.array([[False, False], [True, False], [True, True]]))
        >>> table[: 3 * n_rows].tolist(), table[3 * n_rows :].tolist()
        ([1, 0, 1, 2, 1, 3], [0, 0, 1])
    """
    to, source = _places(present)
    counts = np.bincount(to, minlength=len(present))
    numbers = np.flatnonzero(counts)
    stops = np.cumsum(counts[numbers])
    heads = np.stack([numbers, stops - counts[numbers], stops], axis=1)
    return np.concatenate([heads.ravel(), source]).astype(np.int32), len(numbers)


def _places(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`np.nonzero` of a matrix, several times as fast."""
    return np.divmod(np.flatnonzero(flags), max(1, flags.shape[1]))


def take(one: Float[Tensor, "row position width"], other: Float[Tensor, "source position width"]) -> bool:
    """Whether the kernels can take two sets of rows: of one format, and each row in one piece."""
    return one.dtype == other.dtype and one.dtype in DTYPES and one[:1].is_contiguous() and other[:1].is_contiguous()


def say_right(device: torch.device) -> bool:
    """Whether the kernels give the right results on a device.

    Args:
        device: Where they run.
    """
    rows = (torch.arange(3 * 2 * 35, dtype=torch.float32).view(3, 2, 35) % 11).bfloat16()
    coefficients = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 2.0]], dtype=torch.bfloat16)
    present = coefficients.float().numpy() != 0
    there, out = rows.to(device), torch.ones(2, 2, 35, device=device, dtype=torch.bfloat16)
    add_gathered(out, coefficients.to(device), there, present)
    dots = gathered_dots(there, there, np.tri(3, dtype=bool)).cpu()
    flat = rows.float().flatten(1)
    mixed = (1 + coefficients.float() @ flat).view(2, 2, 35)
    return torch.equal(out.float().cpu(), mixed) and torch.equal(dots, (flat @ flat.T)[torch.ones(3, 3).tril() > 0])
