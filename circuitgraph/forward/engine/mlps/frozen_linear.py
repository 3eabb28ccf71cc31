"""Products with the MLPs' frozen weights on a CPU, by oneDNN, which comes with torch.

They are taken with the weights where they lie, so that a change of a weight is followed, and have the numbers of
torch's own products, to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from circuitgraph.forward.engine.mlps.onednn import multiply, onednn_works

LEAST_NUMBERS = 1 << 16
"""Smaller matrices stay in the first-level caches and are left as they are."""


def use_onednn(module: nn.Module) -> None:
    """Put products by oneDNN in the place of a module's linear maps; small ones stay as they are.

    Args:
        module: Part of a frozen view, whose tree is nobody else's (see `frozen_view`). Changed in place.
    """
    for name, child in module._modules.items():
        if isinstance(child, nn.Linear | Conv1D) and _fits(child.weight):
            module._modules[name] = FrozenLinear(child)
        elif child is not None:
            use_onednn(child)


def _fits(weight: Tensor) -> bool:
    """Whether a weight is float32, on a CPU, large enough to gain, and no slice, whose strides oneDNN is slow with."""
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()
    whole = weight.is_contiguous() or weight.T.is_contiguous()
    return fits and whole and weight.numel() >= LEAST_NUMBERS and onednn_works()


class FrozenLinear(nn.Module):
    """A frozen linear map.

    Args:
        linear: The map.
    """

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.matrix = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().T
        self.shift = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Float[Tensor, "*position given"]) -> Float[Tensor, "*position taken"]:
        """The map's product; its gradient goes to `x` alone."""
        return _FrozenProduct.apply(x, self.matrix, self.shift)  # type: ignore[return-value]


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, shift: Tensor | None) -> Tensor:
        ctx.matrix = matrix  # a weight that is not saved by autograd, since it may be changed in place between passes
        return multiply(x, matrix, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return multiply(gradient, ctx.matrix.T), None, None
