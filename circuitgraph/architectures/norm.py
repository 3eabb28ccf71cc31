"""A norm as plain data, declared by a family, beside the module that defines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["none", "layer", "rms"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """A norm of the residual stream, with frozen weights.

    With w = `weight + offset`, m the mean and s = 1 / sqrt(mean((x − m)²) + ε), a layer norm gives
    `s (x − m) · w + bias`, an RMS norm the same with m = 0 and no bias. Engines that have a way of their own go by
    these numbers, all others call the module.

    Attributes:
        module: The model's own norm, which says what the norm is.
        kind: `none`, `layer` or `rms`.
        weight: `[d_model]`; None where the norm has none.
        bias: `[d_model]`; None where the norm has none.
        epsilon: What is added to the mean of squares.
        offset: What is added to the weight: 1 where a model keeps its weights as differences from 1.
        in_float32: Whether the module computes in float32 whatever it is given, so that float64 rows are rounded.

    Examples:
        >>> import torch
        >>> norm = Norm.layer(nn.LayerNorm(2, eps=0.0).requires_grad_(False))
        >>> norm(torch.tensor([1.0, 3.0])).tolist(), norm.kind
        ([-1.0, 1.0], 'layer')
    """

    module: nn.Module
    kind: Kind
    weight: Float[Tensor, " d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None
    epsilon: float = 0.0
    offset: float = 0.0
    in_float32: bool = False

    @classmethod
    def none(cls) -> Norm:
        """The norm of a model that has none."""
        return cls(module=nn.Identity(), kind="none")

    @classmethod
    def layer(cls, module: nn.LayerNorm) -> Norm:
        """Torch's layer norm over the last axis.

        Args:
            module: The norm.
        """
        return cls(module=module, kind="layer", weight=module.weight, bias=module.bias, epsilon=module.eps)

    def __call__(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """The normed rows, by the model's own module and with autograd."""
        return self.module(x)

    def inverse_scale(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row 1"]:
        """1 / sqrt(mean(x²) + ε) of rows, as an RMS norm has it.

        Args:
            x: The rows.
        """
        wide = x.float() if self.in_float32 else x
        return (wide.square().mean(-1, keepdim=True) + self.epsilon).rsqrt().to(x.dtype)

    @property
    def factor(self) -> Float[Tensor, " d_model"] | None:
        """What normed rows are multiplied with, `weight + offset`: added anew, since weights may change in place."""
        return self.weight if self.weight is None or not self.offset else self.weight + self.offset
