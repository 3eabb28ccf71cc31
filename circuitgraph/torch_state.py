"""Torch's ambient state round a call: what a caller has set there must not change numbers, nor make a call fail."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def settled(*, gradients: bool = False) -> Iterator[None]:
    """Torch as it is when a process begins, and what it was before afterwards.

    Inference mode and autocast are off, new tensors are float32 on the CPU. The number of threads, determinism and the
    precision of products stay the caller's.

    Args:
        gradients: Turn gradients on. Else they stay as they are, and off under inference mode.

    Examples:
        >>> with torch.inference_mode(), settled():
        ...     torch.zeros(1).is_inference(), torch.is_grad_enabled()
        (False, False)
    """
    with contextlib.ExitStack() as stack:
        wants = gradients or (torch.is_grad_enabled() and not torch.is_inference_mode_enabled())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled() != wants:
            stack.enter_context(torch.set_grad_enabled(wants))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def in_settled_state(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs in `settled()`; whether gradients are on stays the caller's choice."""

    @functools.wraps(function)
    def run(*given: P.args, **named: P.kwargs) -> R:
        with settled():
            return function(*given, **named)

    return run


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs in `settled(gradients=True)`, since it takes gradients itself."""

    @functools.wraps(function)
    def run(*given: P.args, **named: P.kwargs) -> R:
        with settled(gradients=True):
            return function(*given, **named)

    return run
