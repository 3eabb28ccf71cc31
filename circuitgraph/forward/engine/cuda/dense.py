"""The two products of the stream on CUDA where many coefficients are not zero, for few rows in a narrow format.

A product of some dozen rows with a million columns moves much and computes little, and libraries' kernels, made for
squarer matrices, get a third of the memory's rate with it. Here

1. mixing, `out = base + C rows`: a program takes a block of columns of all rows of `out`, goes through the sources some
   at a time, adds up in float32 and stores once. What is added to comes from `out` itself, from one row for all, or is
   nothing, so that nothing is filled in beforehand;
2. dots, `left rightᵀ`: a program takes a chunk of the columns; the chunks' sums are added up in one order afterwards.

`circuitgraph.forward.engine.cuda.engine` decides when they are taken.
"""

from __future__ import annotations

from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.engine.cuda.compiler import kernel, tl, triton

DTYPES = (torch.bfloat16, torch.float16)
"""Formats that tensor cores multiply without rounding what they are given; float32 is left to the library."""
MOST = 64
"""More rows than this are left to the library, whose kernels are good at them."""
COLUMNS, SOURCES = 128, 32
"""Columns and sources that a program takes at a time."""
CHUNK, STEP = 8192, 64
"""Columns of a chunk of dots, and how many of them are taken at a time."""


@kernel("n_to", "n_from")
@no_type_check
def _mix_kernel(
    out, base, coefficients, rows, n_to, n_from, n_columns, out_stride, rows_stride, to_stride, from_stride,
    BASE: tl.constexpr, TO: tl.constexpr, SOURCES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One block of columns of all rows; `BASE` is what is added to: 0 nothing, 1 `out`, 2 the row `base`."""
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < n_columns
    to = tl.arange(0, TO)
    place = out + to[:, None].to(tl.int64) * out_stride + columns[None, :]
    ours = (to < n_to)[:, None] & inside[None, :]
    total = tl.zeros((TO, COLUMNS), dtype=tl.float32)
    if BASE == 1:
        total += tl.load(place, mask=ours, other=0.0).to(tl.float32)
    if BASE == 2:
        total += tl.load(base + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    for start in range(0, n_from, SOURCES):
        source = start + tl.arange(0, SOURCES)
        there = source < n_from
        factors = tl.load(
            coefficients + to[:, None] * to_stride + source[None, :] * from_stride,
            mask=(to < n_to)[:, None] & there[None, :], other=0.0,
        )  # fmt: skip
        given = tl.load(
            rows + source[:, None].to(tl.int64) * rows_stride + columns[None, :],
            mask=there[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(factors, given, total)
    tl.store(place, total.to(out.dtype.element_ty), mask=ours)


@kernel("n_to", "n_from")
@no_type_check
def _dots_kernel(
    left, right, sums, n_to, n_from, n_columns, left_stride, right_stride,
    TO: tl.constexpr, FROM: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """What one chunk of the columns adds to some of the dots."""
    chunk, part = tl.program_id(0), tl.program_id(1)
    to = tl.arange(0, TO)
    source = part * FROM + tl.arange(0, FROM)
    total = tl.zeros((TO, FROM), dtype=tl.float32)
    for start in range(0, CHUNK, STEP):
        columns = chunk.to(tl.int64) * CHUNK + start + tl.arange(0, STEP)
        inside = columns < n_columns
        ours = tl.load(
            left + to[:, None].to(tl.int64) * left_stride + columns[None, :],
            mask=(to < n_to)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        theirs = tl.load(
            right + source[None, :].to(tl.int64) * right_stride + columns[:, None],
            mask=(source < n_from)[None, :] & inside[:, None], other=0.0,
        )  # fmt: skip
        total = tl.dot(ours, theirs, total)
    place = sums + (chunk * n_to + to[:, None]) * n_from + source[None, :]
    tl.store(place, total, mask=(to < n_to)[:, None] & (source < n_from)[None, :])


def can_multiply(few: Tensor, many: Tensor) -> bool:
    """Whether a product of few rows with others can be taken here.

    Args:
        few: The few, or where they go `[to position width]`.
        many: The others.
    """
    fits = few.dtype in DTYPES and many.dtype == few.dtype and len(few) <= MOST
    return fits and all(len(rows) > 0 and rows[:1].is_contiguous() for rows in (few, many))


def mix_dense(
    out: Float[Tensor, "to position width"],
    base: Tensor | None,
    coefficients: Float[Tensor, "to source"],
    rows: Float[Tensor, "source position width"],
) -> None:
    """`out = base + coefficients @ rows`.

    Args:
        out: Where it goes.
        base: What is added to: `out` itself, one row for all `[position width]`, or None for nothing.
        coefficients: The matrix, in the rows' format.
        rows: The rows to mix.
    """
    kind = 0 if base is None else 1 if base is out else 2
    row = out if base is None else base
    assert kind < 2 or (row.is_contiguous() and row.shape == out.shape[1:])
    n_columns = out[0].numel()
    with torch.cuda.device_of(out):
        _mix_kernel[(triton.cdiv(n_columns, COLUMNS),)](
            out, row, coefficients, rows, len(out), len(rows), n_columns, out.stride(0), rows.stride(0),
            *coefficients.stride(), BASE=kind, TO=_padded(len(out)), SOURCES=SOURCES, COLUMNS=COLUMNS,
            num_warps=4, num_stages=4,
        )  # fmt: skip


def dots_dense(
    left: Float[Tensor, "to position width"], right: Float[Tensor, "source position width"]
) -> Float[Tensor, "to source"]:
    """`left @ right.T`, positions and widths in one, in float32.

    Args:
        left: Few rows.
        right: Others.
    """
    n_columns = left[0].numel()
    n_chunks, sources = triton.cdiv(n_columns, CHUNK), min(64, _padded(len(right)))
    sums = torch.empty(n_chunks, len(left), len(right), dtype=torch.float32, device=left.device)
    with torch.cuda.device_of(left):
        _dots_kernel[(n_chunks, triton.cdiv(len(right), sources))](
            left, right, sums, len(left), len(right), n_columns, left.stride(0), right.stride(0),
            TO=_padded(len(left)), FROM=sources, CHUNK=CHUNK, STEP=STEP, num_warps=4, num_stages=3,
        )  # fmt: skip
    return sums.sum(0)


def _padded(n: int) -> int:
    """A power of two of at least 16, the least that tensor cores take."""
    return max(16, triton.next_power_of_2(n))


def say_right(device: torch.device) -> bool:
    """Whether the kernels give the right results on a device.

    Args:
        device: Where they run.
    """
    rows = (torch.arange(5 * 2 * 70, dtype=torch.float32).view(5, 2, 70) % 7).half().to(device)
    coefficients = (torch.arange(3 * 5, dtype=torch.float32).view(3, 5) % 4).half().to(device)
    out = rows[:3].clone()
    mix_dense(out, rows[4], coefficients, rows)
    flat = rows.float().flatten(1)
    mixed = flat[4] + coefficients.float() @ flat
    return torch.equal(out.float().flatten(1), mixed) and torch.equal(dots_dense(rows[:3], rows), flat[:3] @ flat.T)
