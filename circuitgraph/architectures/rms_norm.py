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

from circuitgraph.architectures.attention import HeadNorm
from circuitgraph.architectures.norm import Norm

_BLOCK_NUMBERS = 1 << 17  # half a megabyte: two blocks fit into a second-level cache


class RMSNorm(nn.Module):
    """A model's RMS norm with a frozen weight: `x / sqrt(mean(x²) + ε) · (weight + offset)`.

    Args:
        norm: The model's own, with `weight`; it does the work off the CPU and for other number formats than float32.
        epsilon: Its ε.
        offset: What it adds to its weight.
    """

    def __init__(self, norm: nn.Module, *, epsilon: float, offset: float = 0.0) -> None:
        super().__init__()
        self.own: Any = norm
        self.epsilon, self.offset = epsilon, offset

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """The normed rows; the gradient goes to `x` alone."""
        if not self.is_short_for(x):
            return self.own(x)
        weight = self.own.weight + self.offset if self.offset else self.own.weight
        return _RMSNorm.apply(x, weight, self.epsilon)  # type: ignore[return-value]

    def is_short_for(self, x: Tensor) -> bool:
        """Whether rows are normed here, and not by the model's own norm."""
        return x.device.type == "cpu" and x.dtype == torch.float32 == self.own.weight.dtype


def rms_norm(norm: nn.Module, *, offset: float = 0.0) -> Norm:
    """A norm as Hugging Face's decoders have it: in float32 whatever the rows are in.

    Args:
        norm: The model's own, with `weight`, and `variance_epsilon` or `eps`.
        offset: What it adds to its weight: 1 in Gemma.
    """
    own: Any = norm
    epsilon = float(own.variance_epsilon if hasattr(own, "variance_epsilon") else own.eps)
    return Norm(
        module=RMSNorm(norm, epsilon=epsilon, offset=offset), kind="rms", weight=own.weight, epsilon=epsilon,
        offset=offset, in_float32=True,
    )  # fmt: skip


def head_norm(norm: nn.Module, *, n_heads: int | None = None, offset: float = 0.0) -> HeadNorm:
    """An RMS norm of queries or keys.

    Args:
        norm: The model's own, with `weight`, and `variance_epsilon` or `eps`.
        n_heads: Where it is over all heads of a layer together: how many there are.
        offset: What it adds to its weight.
    """
    one: Any = rms_norm(norm, offset=offset)
    weight = one.weight if n_heads is None else one.weight.unflatten(0, (n_heads, -1))
    over = "head" if n_heads is None else "layer"
    return HeadNorm(kind="rms", weight=weight, epsilon=one.epsilon, offset=offset, over=over, in_float32=True)


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
