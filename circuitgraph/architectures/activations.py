"""What stands between an MLP's matrices, in as few operators and kept tensors as it takes.

These say what the model's own modules say, to rounding: GPT-2's activation is written in eight operators, of which
autograd keeps seven tensors of the MLP's inner width, and a gated MLP keeps a third where two are enough. That is a
good part of what a training step holds.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, silu

_PRECISE = (torch.float32, torch.float64)


class TanhGELU(nn.Module):
    """GELU by its tanh approximation, in one operator.

    Args:
        written_out: The model's own, which works in narrower number formats: there it rounds after each of its steps.
    """

    def __init__(self, written_out: nn.Module) -> None:
        super().__init__()
        self.written_out = written_out

    def forward(self, x: Float[Tensor, "*position d_mlp"]) -> Float[Tensor, "*position d_mlp"]:
        """The activation."""
        return gelu(x, approximate="tanh") if x.dtype in _PRECISE else self.written_out(x)


def with_short_gelu(mlp: nn.Module, *, name: str = "act") -> nn.Module:
    """An MLP whose tanh-approximated GELU, if it has one, is one operator.

    Args:
        mlp: Part of a frozen view, whose tree is nobody else's. Changed in place.
        name: What its activation is called.
    """
    from transformers.activations import NewGELUActivation

    own = mlp._modules[name]
    if isinstance(own, NewGELUActivation):
        mlp._modules[name] = TanhGELU(own)
    return mlp


class GatedMLP(nn.Module):
    """A gated MLP that keeps for the way back what its two first matrices say, and nothing else.

    Args:
        mlp: The model's own, with `gate_proj`, `up_proj`, `down_proj` and `act_fn`; it does all of the work where the
            activation is not SiLU.
    """

    def __init__(self, mlp: nn.Module) -> None:
        from transformers.activations import SiLUActivation

        super().__init__()
        self.own = mlp
        self._is_silu = isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)

    def forward(self, x: Float[Tensor, "*position d_model"]) -> Float[Tensor, "*position d_model"]:
        """What the MLP says."""
        mlp: Any = self.own
        if not self._is_silu:
            return mlp(x)
        return mlp.down_proj(_GatedSiLU.apply(mlp.gate_proj(x), mlp.up_proj(x)))


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        to_up = silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), to_up
