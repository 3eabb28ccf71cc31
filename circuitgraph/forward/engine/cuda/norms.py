"""Norms of many rows on CUDA in one pass over memory each way, written to where they are wanted.

In a masked pass every reader has a residual stream of its own to norm. Written in small operators a norm makes a dozen
copies of all of them, some in float32; here a program takes a row, works in float32 and rounds where the model's own
norm does. `circuitgraph.forward.engine.cuda.engine` decides when they are taken.
"""

from __future__ import annotations

from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.forward.engine.cuda.compiler import kernel, tl, triton

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Formats of rows that the kernels take."""
_WIDEST = 1 << 14  # numbers per row that a program holds at once


@kernel()
@no_type_check
def _norm_kernel(
    x, weight, bias, out, means, scales, width, epsilon, CENTRED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Norm one row; keep its mean (if it is centred) and its scale."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    given = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        mean = tl.sum(given, 0) / width
        tl.store(means + row, mean)
        given = tl.where(inside, given - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(given * given, 0) / width + epsilon)
    tl.store(scales + row, scale)
    normed = given * scale
    if not CENTRED:  # Hugging Face's RMS norms round here, torch's layer norm does not
        normed = normed.to(out.dtype.element_ty).to(tl.float32)
    normed *= tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        normed += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, normed.to(out.dtype.element_ty), mask=inside)


@kernel()
@no_type_check
def _back_kernel(
    x, weight, gradient, out, means, scales, width, CENTRED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The gradient of one row: with n its normed numbers and h = weight · g, s (h − n ⟨h n⟩ − ⟨h⟩ if centred)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    scale = tl.load(scales + row)
    normed = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        normed = tl.where(inside, normed - tl.load(means + row), 0.0)
    normed *= scale
    back = tl.load(gradient + row * width + at, mask=inside, other=0.0).to(tl.float32)
    back *= tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    pulled = back - normed * (tl.sum(back * normed, 0) / width)
    if CENTRED:
        pulled -= tl.sum(back, 0) / width
    tl.store(out + row * width + at, (pulled * scale).to(out.dtype.element_ty), mask=inside)


def can_norm(x: Tensor) -> bool:
    """Whether rows can be normed here: of a format and width that fit, in one piece.

    Args:
        x: The rows.
    """
    return x.dtype in DTYPES and x.is_contiguous() and x.shape[-1] <= _WIDEST


def norm_rows(
    x: Float[Tensor, "*row d_model"],
    weight: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"] | None,
    epsilon: float,
    out: Float[Tensor, "*row d_model"],
) -> tuple[Float[Tensor, " flat_row"], Float[Tensor, " flat_row"]]:
    """RMS norm, or layer norm where there is a bias.

    Args:
        x: The rows, in one piece.
        weight: The norm's.
        bias: A layer norm's, or None.
        epsilon: What is added to the mean of squares.
        out: Where the normed rows go, in one piece. May be `x`.

    Returns:
        Means and scales of the rows, float32; the means are not filled in without a bias.
    """
    width = x.shape[-1]
    n_rows = x.numel() // width
    means, scales = torch.empty(2, n_rows, dtype=torch.float32, device=x.device)
    if n_rows:
        with torch.cuda.device_of(x):
            _norm_kernel[(n_rows,)](
                x, weight, weight if bias is None else bias, out, means, scales, width, epsilon,
                CENTRED=bias is not None, BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
            )  # fmt: skip
    return means, scales


def norm_rows_back(
    x: Float[Tensor, "*row d_model"],
    weight: Float[Tensor, " d_model"],
    kept: tuple[Tensor, Tensor],
    gradient: Float[Tensor, "*row d_model"],
    out: Float[Tensor, "*row d_model"],
    *,
    centred: bool,
) -> None:
    """The gradient of the rows from that of the normed rows.

    Args:
        x: The rows, in one piece.
        weight: The norm's.
        kept: From `norm_rows`.
        gradient: Of the normed rows, in one piece.
        out: Where it goes, in one piece. May be `gradient` or `x`.
        centred: Whether it was a layer norm.
    """
    width = x.shape[-1]
    n_rows = x.numel() // width
    if n_rows:
        with torch.cuda.device_of(x):
            _back_kernel[(n_rows,)](
                x, weight, gradient, out, *kept, width,
                CENTRED=centred, BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
            )  # fmt: skip


def _warps(width: int) -> int:
    return 4 if width <= 2048 else 8


def say_right(device: torch.device) -> bool:
    """Whether the kernels give the right results on a device.

    Args:
        device: Where they run.
    """
    x = (torch.arange(3 * 70, dtype=torch.float32).view(3, 70) % 13).to(device)
    weight, bias = torch.full_like(x[0], 0.5), torch.ones_like(x[0])
    out, back = torch.empty_like(x), torch.empty_like(x)
    kept = norm_rows(x, weight, bias, 1e-3, out)
    norm_rows_back(x, weight, kept, x, back, centred=True)
    expected, mean, scale = torch.native_layer_norm(x, (70,), weight, bias, 1e-3)
    pulled = torch.ops.aten.native_layer_norm_backward(x, x, (70,), mean, scale, weight, bias, [True, False, False])[0]
    return torch.allclose(out, expected, atol=1e-5) and torch.allclose(back, pulled, atol=1e-5)
