"""Which model a graph and a circuit are of: a hash of its config, and a checksum of its weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLES = 257  # about so many bytes of a tensor a checksum takes as they are


def config_hash(config: Any, *, dtype: str | None = None) -> str:
    """A hash of what a config says about the computation, the number format among it.

    Args:
        config: A model's.
        dtype: The number format to say instead of the config's own: the hash of the same model loaded in that.
    """
    values = {
        key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "transformers_version")
    }
    for name in ("dtype", "torch_dtype"):
        if dtype is not None and values.get(name) is not None:
            values[name] = dtype
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_checksum(model: nn.Module) -> str:
    """A checksum of a model's weights, quick enough to take each time: it tells checkpoints apart, not forgeries.

    The bits of each tensor are added up as integers, which gives the same on every device and in any order, and a few
    of them are taken as they are. Names of weights do not matter; their order, shapes and number format do.

    Args:
        model: Any module.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_checksum(layer)
        >>> with torch.no_grad():
        ...     layer.bias[1] += 1
        >>> weights_checksum(layer) == before
        False
    """
    digest = hashlib.sha256()
    for weight in model.parameters():
        bits = weight.detach().clone(memory_format=torch.contiguous_format) if _is_odd(weight) else weight.detach()
        bits = bits.reshape(-1).view(torch.uint8)
        whole = len(bits) // 8 * 8
        summed, rest = bits[:whole].view(torch.int64).sum().item(), bits[whole:].tolist()
        some = bits[:: len(bits) // _SAMPLES | 1].tolist()  # an odd step meets every byte of a number
        digest.update(f"{weight.dtype}{list(weight.shape)}{summed}{rest}{some}".encode())
    return digest.hexdigest()[:16]


def _is_odd(weight: Tensor) -> bool:
    """Whether a tensor does not lie in one piece that begins where eight bytes do."""
    return not weight.is_contiguous() or weight.storage_offset() * weight.element_size() % 8 != 0
