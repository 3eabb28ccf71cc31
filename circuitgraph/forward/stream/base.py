"""The ablated residual stream as a sum that takes a gradient: learnt constants, of which each reader sees a prefix.

Reader i sees `x_i = r_n + Σ_j c_ij Δ_j`, where n blocks stand before it and `r_n = t_0 + … + t_n` is what the
embeddings and those blocks say when they are ablated. With `G_i` the gradient of what it sees,

    ∂t_k = Σ over readers behind block k, and over positions, of G_i

whatever the gates. What a writer's own delta takes back, `Δ_j = y_j − ỹ_j`, goes the way of any delta.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.errors import ConfigurationError


class Base:
    """The terms of the ablated residual stream, and the gradient that comes for them.

    Args:
        terms: What the embeddings say in all, then each block, the same at every position `[1 1 d_model]`.

    Raises:
        ConfigurationError: Terms that differ by position.

    Examples:
        >>> base = Base([torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)])
        >>> base.add(1, torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))  # two readers that see both terms
        >>> base.add(0, torch.tensor([[[10.0, 0.0]]]))  # one that sees the first
        >>> [gradient.flatten().tolist() for gradient in base.gradients()]
        [[14.0, 6.0], [4.0, 6.0]]
    """

    def __init__(self, terms: Sequence[Float[Tensor, "prompt_or_one position_or_one d_model"]]) -> None:
        for term in terms:
            if term.numel() != term.shape[-1]:
                raise ConfigurationError(
                    "ablation values can take a gradient only where they are the same for all prompts and positions; "
                    f"got the shape {tuple(term.shape)}, expected (1, 1, {term.shape[-1]})"
                )
        self.terms = tuple(terms)
        wide = torch.promote_types(terms[0].dtype, torch.float32)
        self._sums = torch.zeros(len(terms), terms[0].shape[-1], dtype=wide, device=terms[0].device)

    def add(self, n_before: int, gradients: Float[Tensor, "reader position d_model"]) -> None:
        """Take the gradients of what some readers saw.

        Args:
            n_before: How many blocks stand before them.
            gradients: Theirs.
        """
        self._sums[n_before] += gradients.flatten(0, 1).sum(0, dtype=self._sums.dtype)

    def gradients(self) -> tuple[Tensor, ...]:
        """The gradient of each term, once all have come."""
        behind = self._sums.flip(0).cumsum(0).flip(0)
        return tuple(one.to(term.dtype).view_as(term) for one, term in zip(behind, self.terms, strict=True))
