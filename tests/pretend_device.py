"""A device that is not there: tensors that lie on the CPU and say that they lie elsewhere.

What runs on them is computed as on the CPU, so numbers can be compared. But an operator that mixes them with tensors
on the host fails as it does on CUDA, and whatever would make the host wait for CUDA is written down. So the way that
tensors take on a graphics card can be walked without one; its kernels, streams and memory are out of reach.

PyTorch lets a tensor of a class of its own name any device; `meta` is the one that needs no driver.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from circuitgraph import transfer
from circuitgraph.architectures import intact

aten = torch.ops.aten
DEVICE = torch.device("meta")

_READS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten.unique_consecutive.default, aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operators that read a value (`_local_scalar_dense` is behind `item`, `bool`, `float` and `int` of a tensor), or the
size of whose result depends on values."""

_BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
_OURS = ("circuitgraph", "pruning", "analysis")
_ROOT = Path(__file__).resolve().parents[1]


class Elsewhere(Tensor):
    """A tensor that says it lies on `DEVICE`; `held` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _entered:
            raise RuntimeError(f"{func}: a tensor of the pretended device was used outside of `PretendDevice`")
        return _entered[-1].__torch_dispatch__(func, types, args, kwargs)  # in another thread, which has no modes


class PretendDevice(TorchDispatchMode):
    """While it is entered, `DEVICE` can be computed on.

    Attributes:
        waits: What would have made the host wait, in order: the operator, and our line that called it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._factories = _Factories(self)
        self._originals: dict[str, Any] = {}

    def __enter__(self) -> PretendDevice:
        for name in ("tolist", "numpy"):
            self._originals[name] = getattr(Tensor, name)
            setattr(Tensor, name, self._leaving(name, self._originals[name]))
        self._originals["wait_for"] = transfer.wait_for
        transfer.wait_for = lambda device: self.note("wait_for")
        transfer.QUEUED.append(DEVICE.type)
        # Its weights are refused elsewhere: they say that they are on `meta`, in no memory.
        self._originals["_weights_apart"] = intact._weights_apart
        intact._weights_apart = lambda model: iter(())
        self._factories.__enter__()
        super().__enter__()
        _entered.append(self)
        return self

    def __exit__(self, *raised: Any) -> None:
        _entered.remove(self)
        super().__exit__(*raised)
        self._factories.__exit__(*raised)
        transfer.QUEUED.remove(DEVICE.type)
        transfer.wait_for = self._originals.pop("wait_for")
        intact._weights_apart = self._originals.pop("_weights_apart")
        for name, original in self._originals.items():
            setattr(Tensor, name, original)

    def send(self, tensor: Tensor) -> Tensor:
        """A copy on the pretended device."""
        return Elsewhere(tensor.detach().clone())

    def send_model(self, model: nn.Module) -> nn.Module:
        """Move a model's weights and buffers, in place."""
        sent: dict[int, nn.Parameter] = {}  # tied weights stay tied
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    if id(weight) not in sent:
                        sent[id(weight)] = nn.Parameter(self.send(weight), requires_grad=False)
                    module._parameters[name] = sent[id(weight)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self.send(buffer)
        return model

    def note(self, what: str) -> None:
        """Write a wait down."""
        self.waits.append(f"{what} at {_line_of_ours(sys._getframe(1))}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        asked = kwargs.get("device")
        goes_there = asked is not None and torch.device(asked) == DEVICE
        if not away and not goes_there:
            return func(*args, **kwargs)
        if goes_there:
            kwargs["device"] = torch.device("cpu")
        if func is aten._to_copy.default or func is aten.copy_.default:
            # A copy between devices, or on one.
            target = asked if asked is not None else tensors[0].device
            non_blocking = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
            if torch.device(target) != tensors[-1].device and not non_blocking:
                self.note(str(func))
        else:
            self._check(func, args, tensors)
        made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if goes_there or (asked is None and (func is not aten.copy_.default or isinstance(args[0], Elsewhere))):
            made = tree_map(lambda leaf: Elsewhere(leaf) if type(leaf) is Tensor else leaf, made)
        return return_and_correct_aliasing(func, args, kwargs, made) if away else made

    def _check(self, func: Any, args: Any, tensors: list[Tensor]) -> None:
        """Note what would wait, and refuse what would mix devices; a single number may lie on the host."""
        if func in _READS:
            self.note(str(func))
        if func in _BY_INDEX and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.note(f"{func} by flags")
        if any(not isinstance(tensor, Elsewhere) and tensor.dim() for tensor in tensors):
            told = ", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, got {told}")

    def _leaving(self, name: str, original: Any) -> Any:
        def leave(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(tensor, Elsewhere):
                return original(tensor, *args, **kwargs)
            if name == "numpy":
                raise TypeError("can't convert a tensor of a device to numpy; use Tensor.cpu() first")
            self.note(name)
            return original(tensor.held)

        return leave


_entered: list[PretendDevice] = []


class _Factories(TorchFunctionMode):
    """`torch.tensor` and `torch.as_tensor` fill their tensor before any operator is seen."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and asked is not None and torch.device(asked) == DEVICE:
            self.device.note(func.__name__)
            return self.device.send(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, Elsewhere) else leaf


def _line_of_ours(frame: FrameType | None) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS:
            return f"{path.relative_to(_ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "a test"
