"""Large buffers that outlive a pass, so that steps do not ask the allocator for them again and again."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Holder(Protocol):
    """A pass that has a thread's buffers."""

    finished: bool


class Workspace:
    """Large buffers, kept from one step to the next so that the allocator does not hand them back.

    Each thread has buffers of its own, which end with it. They are handed to one pass at a time; a second pass while
    the first still waits for its backward gets fresh memory.
    """

    def __init__(self) -> None:
        self._of_thread: weakref.WeakKeyDictionary[threading.Thread, _Buffers] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def hand_to(self, asking: Holder) -> bool:
        """Whether a pass may use the kept buffers of this thread."""
        buffers = self._mine()
        holder = buffers.holder() if buffers.holder is not None else None
        if holder is not None and holder is not asking and not holder.finished:
            return False
        buffers.holder = weakref.ref(asking)
        return True

    def clear(self) -> None:
        """Give the memory back, of all threads; no pass may be under way in another."""
        with self._lock:
            for buffers in self._of_thread.values():
                buffers.tensors.clear()

    def take(self, name: str, size: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of the given size, dtype and device of `like`."""
        wanted, tensors = int(np.prod(size)), self._mine().tensors
        kept = tensors.get(name)
        if kept is None or kept.numel() < wanted or kept.dtype != like.dtype or kept.device != like.device:
            del kept  # first, or both would be there for a moment
            tensors.pop(name, None)
            kept = tensors[name] = torch.empty(wanted, dtype=like.dtype, device=like.device)
        return kept[:wanted].view(size)

    def _mine(self) -> _Buffers:
        with self._lock:
            return self._of_thread.setdefault(threading.current_thread(), _Buffers())


class _Buffers:
    """What a thread keeps, and the pass that has it."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.holder: weakref.ref[Holder] | None = None
