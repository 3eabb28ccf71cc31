"""Between host and device: index arrays go one way without waiting, numbers come the other way with one wait.

On CUDA the host runs ahead of the device. It waits where a value is read from the device, and there alone if what
is sent does not make it wait either: `torch.from_numpy(a).to(device)` does, and `to_device` does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

QUEUED = ["cuda"]
"""Types of devices that the host runs ahead of."""


def to_device(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
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
    if _sent and isinstance(values, np.ndarray):
        return _sent[-1].of(values, device)
    return _send(values, device)


def _send(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(device, non_blocking=torch.device(device).type in QUEUED)


class SentArrays:
    """Arrays that were sent to a device, so that the same numbers need not be sent again.

    While `keeping` is entered, `to_device` looks an array up by its numbers. Whoever gets one must not write to it.

    Examples:
        >>> sent = SentArrays()
        >>> with sent.keeping():
        ...     first, second = (to_device(np.array([2, 0]), "cpu") for _ in range(2))
        >>> first is second
        True
    """

    def __init__(self) -> None:
        self._of: dict[tuple[object, ...], Tensor] = {}

    def of(self, values: np.ndarray, device: torch.device | str) -> Tensor:
        """An array on a device, sent when it is first asked for."""
        key = (values.dtype, values.shape, str(device), values.tobytes())
        if key not in self._of:
            self._of[key] = _send(values.copy(), device)
        return self._of[key]

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Have `to_device` look here first, in all threads: autograd has its own on the way back."""
        _sent.append(self)
        try:
            yield
        finally:
            _sent.remove(self)


_sent: list[SentArrays] = []


def to_host(*tensors: Tensor | None) -> tuple[np.ndarray | None, ...]:
    """Bring tensors to the host with one wait for all of them, and none where all are there already.

    Args:
        tensors: Wherever they lie; those that do not lie on the host, on one device.

    Examples:
        >>> to_host(torch.tensor([1.0]), None)
        (array([1.], dtype=float32), None)
    """
    there = next((tensor.device for tensor in tensors if tensor is not None and tensor.device.type != "cpu"), None)
    queued = there is not None and there.type in QUEUED
    # From a queued device these go to pinned memory, and have not arrived before the wait.
    copies = [None if tensor is None else tensor.detach().to("cpu", non_blocking=queued) for tensor in tensors]
    if queued:
        assert there is not None
        wait_for(there)
    return tuple(None if copy is None else copy.numpy() for copy in copies)


def wait_for(device: torch.device) -> None:
    """Wait until a CUDA device has done what it was given."""
    torch.cuda.current_stream(device).synchronize()
