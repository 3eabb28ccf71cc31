"""MLP products with weights laid out for the processor beforehand.

On a CPU a product of few rows by a matrix spends a good part of its time on bringing the matrix into an order that
the processor can use. The weights of a compiled model are frozen, so that can be done once, for each direction:
oneDNN, which comes with torch, keeps them so. The numbers are those of a plain product, to rounding. It takes
another copy of the MLPs' weights for the forward pass, and another for the backward pass once there is one.

The copies do not follow the model's weights by themselves: `CompiledModel.bound` notices when weights were moved,
cast or changed in place, and packs again, but a change through `weight.data` cannot be noticed. That is why packing
is chosen by name.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from circuitgraph.architectures.family import ModelShape
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.memory import available_bytes, packed_bytes
from circuitgraph.models import KERNELS

_LEAST_NUMBERS = 1 << 16
"""Smaller matrices stay in the first-level caches and are left as they are."""


@cache
def packing_works() -> bool:
    """Whether this build of torch multiplies by packed weights, found out by doing it once."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight = torch.arange(12 * 20, dtype=torch.float32).view(12, 20) / 240
    x = torch.arange(3 * 20, dtype=torch.float32).view(3, 20) / 60
    try:
        said = _multiply(x, _packed(weight), None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(said, x @ weight.T, rtol=1e-4, atol=1e-5)


def choose_kernels(asked: str, shape: ModelShape, *, device: str, dtype: str) -> str:
    """Settle how products with the MLPs' weights are done.

    Args:
        asked: `plain`, `packed`, or `auto`: packed where that is possible and pays, and both copies take at most a
            quarter of the memory that is free.
        shape: The model's sizes.
        device: Where the model lies.
        dtype: Its number format.

    Returns:
        `plain` or `packed`.

    Raises:
        ConfigurationError: Packed weights are asked for, and not possible.
        UnknownNameError: No such choice.
    """
    if asked not in KERNELS:
        raise UnknownNameError.of("choice of kernels", asked, KERNELS)
    if asked == "plain":
        return asked
    lacks = "a CPU" if device != "cpu" else "float32" if dtype != "float32" else None
    if lacks is None and not packing_works():
        lacks = "a build of torch with oneDNN's packed products"
    if asked == "packed" and lacks is not None:
        raise ConfigurationError(
            f"kernels='packed' needs {lacks}; the model lies on {device} in {dtype}: use kernels='plain' or 'auto'"
        )
    if asked == "auto":
        pays = lacks is None and shape.d_model * shape.d_mlp >= _LEAST_NUMBERS
        free = available_bytes(device) if pays else None
        return "plain" if free is None or packed_bytes(shape) > free / 4 else "packed"
    return asked


def can_be_packed(weight: Tensor) -> bool:
    """Whether a weight may be packed: float32, on a CPU, and large enough to gain by it."""
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()
    return fits and weight.numel() >= _LEAST_NUMBERS and packing_works()


def pack_linears(module: nn.Module) -> None:
    """Put packed products in the place of a module's linear maps.

    Args:
        module: Part of a frozen view, whose tree is nobody else's (see `frozen_view`). Changed in place.
    """
    for name, child in module._modules.items():
        if isinstance(child, nn.Linear | Conv1D) and can_be_packed(child.weight):
            module._modules[name] = PackedLinear(child)
        elif child is not None:
            pack_linears(child)


class PackedLinear(nn.Module):
    """A frozen linear map; each direction is packed when it is first used.

    Args:
        linear: The map; its weights are read when a direction is packed.
    """

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self._weight = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().T
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._there: Any = None
        self._back: Any = None
        self._packing = threading.Lock()

    def forward(self, x: Float[Tensor, "*cell given"]) -> Float[Tensor, "*cell taken"]:
        """The map's product; its gradient goes to `x` alone."""
        return _PackedProduct.apply(x, self)  # type: ignore[return-value]

    def there(self, x: Tensor) -> Tensor:
        """`x @ weight.T + bias`."""
        with self._packing:
            if self._there is None:
                self._there = _packed(self._weight)
        return _multiply(x, self._there, self._bias)

    def back(self, gradient: Tensor) -> Tensor:
        """`gradient @ weight`."""
        with self._packing:
            if self._back is None:
                self._back = _TURNED.packed(self._weight)
        return _multiply(gradient, self._back, None)


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
            return _packed(self._buffer[: weight.numel()].view(weight.T.shape).copy_(weight.T))


_TURNED = _Turned()


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: PackedLinear) -> Tensor:
        ctx.linear = linear
        return linear.there(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return ctx.linear.back(gradient), None


def _packed(weight: Float[Tensor, "taken given"]) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def _multiply(x: Tensor, packed: Any, bias: Tensor | None) -> Tensor:
    if not x.numel():
        return x.new_zeros(*x.shape[:-1], packed.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
