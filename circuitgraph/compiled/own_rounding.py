"""How far a model's own narrow parts move its logits: the tolerance of the parity gate for float64 models.

Many models compute norms or softmaxes in float32 whatever their weights are in. In float64 such a model is no exact
yardstick: two correct ways to compute it differ by what float32 rounds off inside. How much that is, is measured:

1. the model runs on a batch as it is;
2. it runs again, and everything that it narrows from float64 to float32 on the way is moved by at most one rounding
   of float32, at random: `x (1 + u ε)` with u uniform in [-1, 1] and ε = 2⁻²³;
3. the largest change of a logit, over a few draws, is the model's own rounding.

Weights and buffers that are narrowed (a rotary embedding's frequencies) are the same in every computation, so they are
left alone.

A model that narrows nothing has none, and is held to float64's own tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DRAWS = 3


class _Narrowing(TorchDispatchMode):
    """Moves what is narrowed from float64 to float32 by at most one rounding."""

    def __init__(self, generator: torch.Generator, constants: Iterable[Tensor]) -> None:
        super().__init__()
        self.generator = generator
        self.constants = {constant.untyped_storage().data_ptr() for constant in constants}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = args[0] if args else None
        if not isinstance(out, Tensor) or not isinstance(given, Tensor):
            return out
        if out.dtype == torch.float32 and given.dtype == torch.float64 and not self._is_constant(given):
            noise = torch.rand(out.shape, generator=self.generator, dtype=torch.float32).to(out.device)
            return out * (1 + (2 * noise - 1) * torch.finfo(torch.float32).eps)
        return out

    def _is_constant(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.constants


def own_rounding(run: Callable[[], Tensor], *, seed: int, constants: Iterable[Tensor] = ()) -> float:
    """Measure how far one rounding of float32, wherever a float64 model narrows to it, moves its outputs.

    Args:
        run: Runs the model, the same each time; gives its outputs in float64.
        seed: Of the roundings.
        constants: The model's weights and buffers.

    Returns:
        The largest change of an output divided by the outputs' standard deviation; 0 if nothing is narrowed.

    Examples:
        >>> x = torch.linspace(1, 2, 5, dtype=torch.float64)
        >>> own_rounding(lambda: x.sin(), seed=0)
        0.0
        >>> 1e-8 < own_rounding(lambda: x.float().double(), seed=0) < 1e-6
        True
    """
    generator, constants = torch.Generator().manual_seed(seed), list(constants)
    with torch.no_grad():
        exact = run().double()
        largest = 0.0
        for _ in range(_DRAWS):
            with _Narrowing(generator, constants):
                moved = run().double()
            largest = max(largest, float((moved - exact).abs().max()))
    return largest / float(exact.std().clamp(min=1e-30))
