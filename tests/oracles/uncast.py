"""Float64 models without their detours through float32, which would hide what a float64 test looks for.

Norms, softmaxes and rotary embeddings of most families compute in float32 whatever they are given. Inside of `uncast`
those that ask torch for float32 get float64, on the way forward and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

_PLACES = ((Tensor, "to"), (Tensor, "softmax"), (torch, "softmax"), (torch.nn.functional, "softmax"))


def _wide(function: Callable[..., Any]) -> Callable[..., Any]:
    def wider(each: object) -> object:
        return torch.float64 if each is torch.float32 else each

    def called(*args: Any, **named: Any) -> Any:
        return function(*map(wider, args), **{name: wider(each) for name, each in named.items()})

    return called


@contextmanager
def uncast() -> Iterator[None]:
    """Have float64 wherever float32 is asked for."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(Tensor, "float", Tensor.double))
        for place, name in _PLACES:
            stack.enter_context(patch.object(place, name, _wide(getattr(place, name))))
        yield
