"""What makes a path strong: three measures by name, since there is no one way to score a chain.

- `weakest`: a path is as strong as its weakest edge, by `Circuit.strengths` (|score|, but for trained gates);
  among equals the next weakest decides, and so on. It depends on the order of the strengths alone, so that it
  holds for gate logits, attributions and frequencies alike.
- `lowest`: the same by the score itself, a negative score being weaker than 0. It fits the gate scores
  that `pruning.discover` leaves, where a low score means that an edge was nearly cut.
- `product`: the product of strength / (largest strength of the circuit), that is the sum of the logarithms.
  It fits scores that multiply along a path, and prefers short paths. A path with a score of 0 has strength
  0; among those, fewer zeros are stronger.

With all scores equal, as in a complement, each of them ranks paths by their number of edges. Adding the same edge
to two paths never turns their order around, which is what makes the search for the k best paths exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from circuitgraph.errors import UnknownNameError

# Compared as tuples; the smaller, the stronger.
Rank = tuple[float, ...]


class Weakest:
    """`weakest`, or with `signed` `lowest`: ranks are the scores from the weakest up, negated."""

    empty: Rank = ()

    def __init__(self, *, signed: bool):
        self.signed = signed

    def of_edge(self, score: float) -> float:
        """What counts of an edge's score; the larger, the stronger."""
        return score if self.signed else abs(score)

    def extend(self, rank: Rank, score: float) -> Rank:
        """The rank of a path with one more edge."""
        return tuple(sorted((*rank, -self.of_edge(score)), reverse=True))

    def of_path(self, scores: Sequence[float]) -> float:
        """The strength of a path of at least one edge."""
        return min(self.of_edge(score) for score in scores)


class Product:
    """`product`: ranks are the number of zeros, the negated sum of logarithms, and the number of edges."""

    empty: Rank = (0, 0.0, 0)

    def __init__(self, scores: Iterable[float]):
        self.largest = max((abs(score) for score in scores), default=0.0)

    def of_edge(self, score: float) -> float:
        """What counts of an edge's score; the larger, the stronger."""
        return abs(score)

    def extend(self, rank: Rank, score: float) -> Rank:
        """The rank of a path with one more edge."""
        zeros, cost, n_edges = rank
        if score == 0:
            return zeros + 1, cost, n_edges + 1
        # Apart, for the quotient of the smallest and the largest float is 0.
        return zeros, cost + (math.log(self.largest) - math.log(abs(score))), n_edges + 1

    def of_path(self, scores: Sequence[float]) -> float:
        """The strength of a path of at least one edge."""
        return math.prod(abs(score) / self.largest if score else 0.0 for score in scores)


Strength = Weakest | Product
STRENGTHS = ("weakest", "lowest", "product")


def make_strength(by: str, scores: Iterable[float]) -> Strength:
    """Choose a measure by name.

    Args:
        by: `weakest`, `lowest` or `product`.
        scores: The circuit's, of which `product` needs the largest.

    Returns:
        The measure.

    Raises:
        UnknownNameError: No such measure.

    Examples:
        >>> make_strength("product", [4.0, -2.0, 1.0]).of_path([-2.0, 1.0])
        0.125
    """
    if by == "product":
        return Product(scores)
    if by in STRENGTHS:
        return Weakest(signed=by == "lowest")
    raise UnknownNameError.of("strength of paths", by, STRENGTHS)
