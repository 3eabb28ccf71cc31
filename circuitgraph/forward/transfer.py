"""Between host and device: what a pass is decided by comes to the host once, and index arrays go the other way.

On CUDA the host runs ahead of the device. It waits where a value is read from the device, and there alone if what
is sent does not make it wait either: `torch.from_numpy(a).to(device)` does, and `to_device` does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A small array or tensor on a device, on CUDA without waiting for what runs there.

    CUDA's driver has taken its copy when this returns, pinned or not, so what was sent may go. Other devices need not
    have, so there it waits.

    Args:
        values: What is sent.
        device: Where to.

    Examples:
        >>> to_device(np.array([2, 0]), torch.device("cpu"))
        tensor([2, 0])
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(device, non_blocking=device.type == "cuda")


def to_host(*tensors: Tensor | None) -> tuple[np.ndarray | None, ...]:
    """Bring tensors to the host with one wait for all of them.

    Args:
        tensors: At least one that is not None, all on one device.

    Examples:
        >>> to_host(torch.tensor([1.0]), None)
        (array([1.], dtype=float32), None)
    """
    first = next(tensor for tensor in tensors if tensor is not None)
    if first.device.type != "cuda":
        return tuple(None if tensor is None else tensor.cpu().numpy() for tensor in tensors)
    copies = []
    for tensor in tensors:
        copy = None
        if tensor is not None:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        copies.append(copy)
    torch.cuda.current_stream(first.device).synchronize()
    return tuple(None if copy is None else copy.numpy() for copy in copies)
