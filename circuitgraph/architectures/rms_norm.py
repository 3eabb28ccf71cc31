"""RMS norms on a CPU with few passes over memory.

In a masked pass every reader has a residual stream of its own to norm, so that norms, which a plain model hardly
notices, take a tenth of a step. A norm written in small operators makes half a dozen copies of all streams on the way
forward and back; here it makes one each way, in blocks that stay in the cache, and keeps nothing but a number per row.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from circuitgraph.architectures.norm import Norm

_BLOCK_NUMBERS = 1 << 17  # half a megabyte: two blocks fit into a second-level cache


class RMSNorm(nn.Module):
    """A model's RMS norm with a frozen weight: `x / sqrt(mean(x²) + ε) · weight`.

    Args:
        norm: The model's own, with `weight` and `variance_epsilon`; it does the work off the CPU and for other number
            formats than float32.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.own: Any = norm

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """The normed rows; the gradient goes to `x` alone."""
        weight, epsilon = self.own.weight, self.own.variance_epsilon
        if not self.is_short_for(x):
            return self.own(x)
        return _RMSNorm.apply(x, weight, epsilon)  # type: ignore[return-value]

    def is_short_for(self, x: Tensor) -> bool:
        """Whether rows are normed here, and not by the model's own norm."""
        return x.device.type == "cpu" and x.dtype == torch.float32 == self.own.weight.dtype


def rms_norm(norm: nn.Module) -> Norm:
    """A norm as Hugging Face's Llama has it: in float32 whatever the rows are in.

    Args:
        norm: The model's own, with `weight` and `variance_epsilon`.
    """
    own: Any = norm
    return Norm(
        module=RMSNorm(norm), kind="rms", weight=own.weight, epsilon=float(own.variance_epsilon), in_float32=True
    )


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normed = torch.empty(x.shape, dtype=x.dtype)
        ctx.save_for_backward(x, weight, rms_forward(x, weight, epsilon, normed))
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        pulled = torch.empty(x.shape, dtype=x.dtype)
        rms_backward(x, weight, inverse, gradient, pulled)
        return pulled, None, None


def rms_forward(
    x: Float[Tensor, "*row d_model"],
    weight: Float[Tensor, " d_model"],
    epsilon: float,
    out: Float[Tensor, "*row d_model"],
) -> Float[Tensor, "flat_row 1"]:
    """Norm rows, without autograd.

    Args:
        x: The rows.
        weight: The norm's.
        epsilon: What is added to the mean of squares.
        out: Where the normed rows go; lies in one piece. May be `x`.

    Returns:
        `1 / sqrt(mean(x²) + ε)` of every row.
    """
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    inverse = rows.new_empty(len(rows), 1)
    for given, normed, scale in blocks(rows, out.view(-1, width), inverse):
        torch.linalg.vector_norm(given, dim=-1, keepdim=True, out=scale)
        scale.square_().div_(width).add_(epsilon).rsqrt_()
        torch.mul(given, scale, out=normed).mul_(weight)
    return inverse


def rms_backward(
    x: Float[Tensor, "*row d_model"],
    weight: Float[Tensor, " d_model"],
    inverse: Float[Tensor, "flat_row 1"],
    gradient: Float[Tensor, "*row d_model"],
    out: Float[Tensor, "*row d_model"],
) -> None:
    """The gradient of the rows from that of the normed rows.

    Args:
        x: The rows.
        weight: The norm's.
        inverse: From `rms_forward`.
        gradient: Of the normed rows.
        out: Where it goes; lies in one piece. May be `gradient`, but not `x`.
    """
    width = x.shape[-1]
    # With s = 1 / sqrt(mean(x²) + ε) and h = weight · g, a row's gradient is s h − s³ (h · x / width) x.
    cubed = inverse.pow(3).div_(-width)
    tensors = x.reshape(-1, width), gradient.reshape(-1, width), out.view(-1, width), inverse, cubed
    for given, back, pulled, scale, factor in blocks(*tensors):
        torch.mul(back, weight, out=pulled)
        along = (pulled * given).sum(-1, keepdim=True).mul_(factor)
        pulled.mul_(scale).addcmul_(given, along)


def blocks(rows: Tensor, *others: Tensor) -> Any:
    """Some rows of each tensor at a time, so many as stay in the cache; all of them off the CPU."""
    size = max(1, _BLOCK_NUMBERS // max(1, rows.shape[-1]))
    if len(rows) <= size or rows.device.type != "cpu":
        return [(rows, *others)]
    return zip(*(tensor.split(size) for tensor in (rows, *others)), strict=True)
