"""Modules around a model's own: factors, caps, experts as one MLP, maps that a model keeps apart."""

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


class Routed(nn.Module):
    """A block of experts with their router, as one MLP: what it says, without the router's scores.

    Args:
        own: The model's block, which takes `[batch seq d_model]`.
    """

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """What the chosen experts say."""
        said = self.own(x.reshape(1, -1, x.shape[-1]))
        return (said[0] if isinstance(said, tuple) else said).view(x.shape)


class TwoMaps(nn.Module):
    """An MLP without a gate, of modules that a model keeps elsewhere.

    Args:
        first: From the residual stream.
        activation: Between the two.
        second: Back to the residual stream.
    """

    def __init__(self, first: nn.Module, activation: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc_in, self.act, self.fc_out = first, activation, second

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """What the MLP says."""
        return self.fc_out(self.act(self.fc_in(x)))


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


class BehindMap(nn.Module):
    """An output head behind a map with an activation: logits are no linear function of what the final norm puts out.

    Args:
        first: The map.
        own: The head.
    """

    def __init__(self, first: nn.Module, own: nn.Module) -> None:
        super().__init__()
        self.first, self.own = first, own

    def forward(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_vocab"]:
        """The logits."""
        return self.own(self.first(x))
