"""Attention as data of a layer: what a family declares about the way from queries, keys and values to what is gathered.

Nothing here says how a pass is run. The plain run, the masked pass, searches and extracted circuits all go by these
declarations, through `circuitgraph.forward.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadNorm:
    """A norm of a layer's queries or keys, before they are turned by their positions.

    Attributes:
        kind: `rms`, or `layer` where the mean is taken off first.
        weight: `[d_head]` for all heads alike; for each its own `[head d_head]`, or a tensor a head where a model keeps
            them apart; None where the norm has none.
        bias: Likewise.
        epsilon: What is added to the mean of squares.
        offset: What is added to the weight: 1 where a model keeps its weights as differences from 1.
        over: `head` where each head is normed by itself; `layer` where all heads of the layer share one scale, so that
            a head's query moves when any other's does.
        in_float32: Whether it is computed in float32 whatever it is given.

    Examples:
        >>> norm = HeadNorm(kind="rms", weight=torch.ones(2), epsilon=0.0)
        >>> norm(torch.tensor([[[[3.0, 3.0]]]])).tolist()
        [[[[1.0, 1.0]]]]
    """

    kind: Literal["rms", "layer"]
    weight: Tensor | tuple[Tensor, ...] | None = None
    bias: Tensor | None = None
    epsilon: float
    offset: float = 0.0
    over: Literal["head", "layer"] = "head"
    in_float32: bool = False

    @property
    def weights(self) -> Tensor | None:
        """The weights in one tensor, as they are now."""
        return torch.stack(self.weight) if isinstance(self.weight, tuple) else self.weight

    @property
    def differs_by_head(self) -> bool:
        """Whether heads have weights of their own."""
        weight = self.weight
        return isinstance(weight, tuple) or (weight is not None and weight.ndim == 2)

    def __call__(
        self, x: Float[Tensor, "head *row d_head"], heads: Tensor | None = None
    ) -> Float[Tensor, "head *row d_head"]:
        """The normed queries or keys.

        Args:
            x: Of some heads; of all of them where the norm is over the layer.
            heads: Which heads of the model; None for all in their order.
        """
        wide = x.float() if self.in_float32 else x
        axes = (0, -1) if self.over == "layer" else (-1,)
        if self.kind == "layer":
            wide = wide - wide.mean(axes, keepdim=True)
        wide = wide * (wide.square().mean(axes, keepdim=True) + self.epsilon).rsqrt()
        weight = self.weights
        if weight is not None:
            weight = weight + self.offset if self.offset else weight
            wide = wide * _of_heads(weight, heads, x.ndim)
        if self.bias is not None:
            wide = wide + _of_heads(self.bias, heads, x.ndim)
        return wide.to(x.dtype)


def _of_heads(values: Tensor, heads: Tensor | None, n_axes: int) -> Tensor:
    """Numbers of some heads, to be multiplied with `[head … d_head]`."""
    if values.ndim == 1:
        return values
    picked = values if heads is None else values.index_select(0, heads)
    return picked.view(len(picked), *(1,) * (n_axes - 2), -1)


def alibi_slopes(n_heads: int) -> Float[Tensor, " head"]:
    """The slopes of ALiBi (Press et al. 2022): `2 ** (-8 i / n)` for the i-th of n heads.

    Where n is no power of two, those of the next smaller one, then every second of the next larger one.

    Args:
        n_heads: How many heads.

    Examples:
        >>> alibi_slopes(3).tolist()
        [0.0625, 0.00390625, 0.25]
    """
    smaller = 2 ** (n_heads.bit_length() - 1)
    own = [2 ** (-8 * i / smaller) for i in range(1, smaller + 1)]
    others = [2 ** (-8 * i / (2 * smaller)) for i in range(1, 2 * smaller + 1, 2)]
    return torch.tensor((own + others)[:n_heads])


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """How one layer's heads attend.

    Attributes:
        scale: Factor on the scores.
        window: How many positions a query sees at most, its own and those before it; None where it sees all that the
            model lets it see.
        ahead: Whether the window reaches as far ahead, in a model that looks both ways.
        rotary: Which of the model's rotary embeddings turns queries and keys; None where none does.
        turned: Whether each number of a head is turned against the one half of them on (`halves`) or against its
            neighbour (`pairs`).
        cap: Scores s become `cap · tanh(s / cap)`; None where they stay.
        slopes: ALiBi: a key's score is raised by its head's slope times its position `[head]`; None without.
        sinks: A score a head that takes its share of the softmax and gives nothing `[head]`; None without.
        query_norm: Norm of the queries, or None.
        key_norm: Norm of the keys, or None.
        clip: Queries, keys and values are clamped to `[-clip, clip]`; None where they are not.
    """

    scale: float
    window: int | None = None
    ahead: bool = False
    rotary: int | None = 0
    turned: Literal["halves", "pairs"] = "halves"
    cap: float | None = None
    slopes: Float[Tensor, " head"] | None = None
    sinks: Float[Tensor, " head"] | None = None
    query_norm: HeadNorm | None = None
    key_norm: HeadNorm | None = None
    clip: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether scores go through nothing but a mask and a softmax."""
        return self.cap is None and self.slopes is None and self.sinks is None

    @property
    def mixes_heads(self) -> bool:
        """Whether a head's query or key depends on those of the layer's other heads."""
        return any(norm is not None and norm.over == "layer" for norm in (self.query_norm, self.key_norm))
