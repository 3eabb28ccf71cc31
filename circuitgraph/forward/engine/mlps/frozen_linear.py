"""Products with the MLPs' frozen weights on a CPU, by oneDNN, which comes with torch.

Two ways, either with the numbers of torch's own product, to rounding:

- `direct`: with the weights where they lie, which takes no memory. On a processor with AVX-512 that was measured to be
  a tenth to a half faster than torch's own way; on one without it steps took up to a third longer
  (docs/performance.md).
- `packed`: a product of few rows spends a good part of its time on bringing the weights into an order that the
  processor can use. As they are frozen, that can be done once, at the price of a copy of them for each direction.
  From 96 rows on the gain is a twentieth, so that larger products are direct.

The copies do not follow the model's weights by themselves: `CompiledModel.bound` notices when weights were moved,
cast or changed in place, and packs again, but a change through `weight.data` cannot be noticed. That is why packing
is chosen by name.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from circuitgraph.forward.engine.mlps.onednn import multiply, onednn_works, pack_weight

LEAST_NUMBERS = 1 << 16
"""Smaller matrices stay in the first-level caches and are left as they are."""

_PACKED_BELOW_ROWS = 96


def use_onednn(module: nn.Module, *, pack: bool) -> None:
    """Put products by oneDNN in the place of a module's linear maps; small ones stay as they are.

    Args:
        module: Part of a frozen view, whose tree is nobody else's (see `frozen_view`). Changed in place.
        pack: Whether weights are packed for small products.
    """
    for name, child in module._modules.items():
        if isinstance(child, nn.Linear | Conv1D) and _fits(child.weight):
            module._modules[name] = FrozenLinear(child, pack=pack)
        elif child is not None:
            use_onednn(child, pack=pack)


def _fits(weight: Tensor) -> bool:
    """Whether a weight is float32, on a CPU, large enough to gain, and no slice, whose strides oneDNN is slow with."""
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()
    whole = weight.is_contiguous() or weight.T.is_contiguous()
    return fits and whole and weight.numel() >= LEAST_NUMBERS and onednn_works()


class FrozenLinear(nn.Module):
    """A frozen linear map; each direction is packed when a small product first needs it.

    Args:
        linear: The map.
        pack: Whether small products are taken with packed weights.
    """

    def __init__(self, linear: nn.Linear | Conv1D, *, pack: bool) -> None:
        super().__init__()
        self._weight = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().T
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._pack = pack
        self._there: Any = None
        self._back: Any = None
        self._packing = threading.Lock()

    def forward(self, x: Float[Tensor, "*cell given"]) -> Float[Tensor, "*cell taken"]:
        """The map's product; its gradient goes to `x` alone."""
        return _FrozenProduct.apply(x, self)  # type: ignore[return-value]

    @property
    def copies(self) -> int:
        """How many copies of the weights are kept."""
        return sum(packed is not None for packed in (self._there, self._back))

    def there(self, x: Tensor) -> Tensor:
        """`x @ weight.T + bias`."""
        if not self._packs(x):
            return multiply(x, self._weight, self._bias)
        with self._packing:
            if self._there is None:
                self._there = pack_weight(self._weight)
        return multiply(x, self._there, self._bias)

    def back(self, gradient: Tensor) -> Tensor:
        """`gradient @ weight`."""
        if not self._packs(gradient):
            return multiply(gradient, self._weight.T, None)
        with self._packing:
            if self._back is None:
                self._back = _TURNED.packed(self._weight)
        return multiply(gradient, self._back, None)

    def _packs(self, x: Tensor) -> bool:
        return self._pack and x.numel() < _PACKED_BELOW_ROWS * x.shape[-1]


class _Turned:
    """Packs weights the other way round, all through one buffer.

    A copy made and freed for each of them would leave holes between what is kept: 40 to 70 MiB of SmolLM2's peak.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffer = torch.empty(0)

    def packed(self, weight: Float[Tensor, "taken given"]) -> Any:
        """The packed transpose of a weight."""
        with self._lock:
            if self._buffer.numel() < weight.numel():
                self._buffer = torch.empty(weight.numel())
            return pack_weight(self._buffer[: weight.numel()].view(weight.T.shape).copy_(weight.T))


_TURNED = _Turned()


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: FrozenLinear) -> Tensor:
        ctx.linear = linear
        return linear.there(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return ctx.linear.back(gradient), None
