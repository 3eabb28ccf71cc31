"""Norms of what readers see, into buffers that are at hand, and the way back, without autograd's copies.

Norms work row by row. So on a CPU they are taken some rows at a time, which stay in the cache, and nothing as large as
all of a layer's reads is made anew.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitgraph.architectures.rms_norm import RMSNorm, blocks, rms_backward, rms_forward
from circuitgraph.forward.engine.choose import kernels_on


def norm_into(norm: nn.Module, x: Float[Tensor, "*row d_model"], out: Float[Tensor, "*row d_model"]) -> Any:
    """Norm rows, without autograd.

    Args:
        norm: A frozen norm, or `nn.Identity`.
        x: The rows.
        out: Where the normed rows go; lies in one piece.

    Returns:
        What `norm_back` asks for: a few numbers a row.
    """
    if isinstance(norm, nn.Identity):
        out.copy_(x)
        return None
    if isinstance(norm, RMSNorm) and norm.is_short_for(x):
        return rms_forward(x, norm.own.weight, norm.own.variance_epsilon, out)
    kernels, parts = kernels_on(x.device), norm_parts(norm)
    if kernels is not None and parts is not None and kernels.norms.can_norm(x) and kernels.norms.can_norm(out):
        return kernels.norms.norm_rows(x, *parts, out)
    pairs = blocks(x.flatten(0, -2), out.flatten(0, -2))
    if type(norm) is nn.LayerNorm:
        found = []
        for given, normed in pairs:
            said, *moments = torch.native_layer_norm(given, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            normed.copy_(said)
            found.append(moments)
        return found
    with torch.no_grad():
        for given, normed in pairs:
            normed.copy_(norm(given))
    return None


def norm_back(
    norm: nn.Module,
    x: Float[Tensor, "*row d_model"],
    kept: Any,
    gradient: Float[Tensor, "*row d_model"],
    out: Float[Tensor, "*row d_model"],
) -> None:
    """The gradient of rows from that of the normed rows.

    Args:
        norm: The norm.
        x: The rows.
        kept: From `norm_into`.
        gradient: Of the normed rows.
        out: Where it goes; lies in one piece. May be `gradient`, but not `x`.
    """
    if isinstance(norm, nn.Identity):
        out.copy_(gradient)
    elif isinstance(norm, RMSNorm) and norm.is_short_for(x):
        rms_backward(x, norm.own.weight, kept, gradient, out)
    elif isinstance(kept, tuple):  # it was normed by a kernel
        kernels, parts = kernels_on(x.device), norm_parts(norm)
        assert kernels is not None and parts is not None
        kernels.norms.norm_rows_back(x, parts[0], kept, gradient, out, centred=parts[1] is not None)
    elif type(norm) is nn.LayerNorm:
        threes = blocks(*(rows.flatten(0, -2) for rows in (x, gradient, out)))
        for (given, back, pulled), (mean, scale) in zip(threes, kept, strict=True):
            found = torch.ops.aten.native_layer_norm_backward(
                back, given, norm.normalized_shape, mean, scale, norm.weight, norm.bias, [True, False, False]
            )
            pulled.copy_(found[0])
    else:
        for given, back, pulled in blocks(*(rows.flatten(0, -2) for rows in (x, gradient, out))):
            with torch.enable_grad():
                leaf = given.detach().requires_grad_()
                (found,) = torch.autograd.grad(norm(leaf), leaf, back)
            pulled.copy_(found)


def norm_parts(norm: nn.Module) -> tuple[Tensor, Tensor | None, float] | None:
    """Weight, bias and ε of a norm that kernels can take over; None for others.

    Args:
        norm: The norm.
    """
    if isinstance(norm, RMSNorm):
        return norm.own.weight, None, float(norm.own.variance_epsilon)
    if type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None:
        return norm.weight, norm.bias, norm.eps
    return None


def norms_here(norm: nn.Module, like: Tensor) -> bool:
    """Whether a norm of such rows on a CPU is what its parts say, in the rows' own format.

    A model's RMS norm computes in float32, whatever it is given.

    Args:
        norm: The norm.
        like: Gives the rows' format and device.
    """
    if isinstance(norm, RMSNorm):
        return norm.is_short_for(like)
    return norm_parts(norm) is not None and norm.weight.dtype == like.dtype
