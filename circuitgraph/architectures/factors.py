"""Modules around a model's own, for what stands between them and the residual stream or the logits."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Times(nn.Module):
    """What a module says, times a factor.

    Args:
        own: The module.
        factor: The factor.
    """

    def __init__(self, own: nn.Module, factor: float) -> None:
        super().__init__()
        self.own, self.factor = own, factor

    def forward(self, x: Float[Tensor, "*row given"]) -> Float[Tensor, "*row said"]:
        """The product."""
        return self.own(x) * self.factor


class Logits(nn.Module):
    """An output head whose logits are multiplied, or capped softly: `cap · tanh(logits / cap)`.

    Args:
        own: The head.
        factor: What its logits are multiplied with.
        cap: The cap, or None.
    """

    def __init__(self, own: nn.Linear, *, factor: float = 1.0, cap: float | None = None) -> None:
        super().__init__()
        self.own, self.factor, self.cap = own, factor, cap

    @property
    def weight(self) -> Float[Tensor, "d_vocab d_model"]:
        """The head's weights."""
        return self.own.weight

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_vocab"]:
        """The logits."""
        logits = self.own(x)
        logits = logits if self.factor == 1 else logits * self.factor
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()
