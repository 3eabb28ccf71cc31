"""RMS norms on a CPU with few passes over memory.

In a masked pass every reader has a residual stream of its own to norm, so that norms, which a plain model hardly
notices, take a tenth of a step. A norm written in small operators makes half a dozen copies of all streams on the way
forward and back; here it makes one each way, in blocks that stay in the cache, and keeps nothing but a number a row.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BLOCK_NUMBERS = 1 << 17  # half a megabyte: two blocks fit into a second-level cache


class RMSNorm(nn.Module):
    """A model's RMS norm with a frozen weight: `x / sqrt(mean(x²) + ε) · weight`.

    Args:
        norm: The model's own, with `weight` and `variance_epsilon`; it does the work off the CPU and for other number
            formats than float32.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """The normed rows; the gradient goes to `x` alone."""
        weight, epsilon = self.norm.weight, self.norm.variance_epsilon
        if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
            return self.norm(x)
        return _RMSNorm.apply(x, weight, epsilon)  # type: ignore[return-value]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        normed, inverse = torch.empty_like(rows), rows.new_empty(len(rows), 1)
        for given, out, scale in _blocks(rows, normed, inverse):
            torch.linalg.vector_norm(given, dim=-1, keepdim=True, out=scale)
            scale.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
            torch.mul(given, scale, out=out).mul_(weight)
        ctx.save_for_backward(x, weight, inverse)
        return normed.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        width = x.shape[-1]
        rows = x.reshape(-1, width)
        # With s = 1 / sqrt(mean(x²) + ε) and h = weight · g, a row's gradient is s h − s³ (h · x / width) x.
        pulled, cubed = torch.empty_like(rows), inverse.pow(3).div_(-width)
        for given, back, out, scale, factor in _blocks(rows, gradient.reshape(-1, width), pulled, inverse, cubed):
            torch.mul(back, weight, out=out)
            along = (out * given).sum(-1, keepdim=True).mul_(factor)
            out.mul_(scale).addcmul_(given, along)
        return pulled.view_as(x), None, None


def _blocks(rows: Tensor, *others: Tensor) -> Any:
    """Some rows of each tensor at a time, so many as stay in the cache."""
    size = max(1, _BLOCK_NUMBERS // max(1, rows.shape[-1]))
    if len(rows) <= size:
        return [(rows, *others)]
    return zip(*(tensor.split(size) for tensor in (rows, *others)), strict=True)
