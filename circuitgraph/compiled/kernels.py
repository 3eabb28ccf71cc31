"""How products with the MLPs' weights are done: what was asked for, settled for a model, a device and a format."""

from __future__ import annotations

from torch import nn

from circuitgraph.architectures.family import ModelShape
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.engine.mlps.frozen_linear import LEAST_NUMBERS
from circuitgraph.forward.engine.mlps.onednn import onednn_pays, onednn_works
from circuitgraph.memory.available import available_bytes
from circuitgraph.memory.numbers import packed_bytes
from circuitgraph.models import KERNELS


def choose_kernels(asked: str, shape: ModelShape, *, device: str, dtype: str) -> str:
    """Settle how products with the MLPs' weights are done.

    Args:
        asked: `plain`, `direct`, `packed`, or `auto`: on a processor with AVX-512 packed as long as both copies take at
            most a quarter of the memory that is free, else direct; on others plain.
        shape: The model's sizes.
        device: Where the model lies.
        dtype: Its number format.

    Returns:
        `plain`, `direct` or `packed`.

    Raises:
        ConfigurationError: Direct products or packed weights are asked for, and not possible.
        UnknownNameError: No such choice.
    """
    if asked not in KERNELS:
        raise UnknownNameError.of("choice of kernels", asked, KERNELS)
    if asked == "plain":
        return asked
    lacks = "a CPU" if device != "cpu" else "float32" if dtype != "float32" else None
    if lacks is None and not onednn_works():
        lacks = "a build of torch with oneDNN's products"
    if asked != "auto" and lacks is not None:
        raise ConfigurationError(
            f"kernels={asked!r} needs {lacks}; the model lies on {device} in {dtype}: use kernels='plain' or 'auto'"
        )
    if asked == "auto":
        if lacks is not None or shape.d_model * shape.d_mlp < LEAST_NUMBERS or not onednn_pays():
            return "plain"
        free = available_bytes(device)
        return "direct" if free is None or packed_bytes(shape) > free / 4 else "packed"
    return asked


def settle_kernels(asked: str, shape: ModelShape, model: nn.Module) -> str:
    """`choose_kernels` for where a model lies and what it is in."""
    weight = next(model.parameters())
    return choose_kernels(asked, shape, device=weight.device.type, dtype=str(weight.dtype).removeprefix("torch."))
