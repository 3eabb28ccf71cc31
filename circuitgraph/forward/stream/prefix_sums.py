"""Sums that grow term by term, asked for in order on the way forward and in the reverse order on the way back."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

KEPT_EVERY = 8
"""One sum in so many is kept for the way back."""


class PrefixSums:
    """Sums of the first terms of a sequence.

    Keeping all of them for the way back would take one tensor per term. So every eighth is kept, and those between are
    made again from it, in the same order and so to the bit, when the first of them is asked for.

    Args:
        start: The sum of no term, or None where that is nothing.
        grown: Gives the sum that is a term longer, as a new tensor: called with the sum and the term's place, for some
            places twice.

    Examples:
        >>> import torch
        >>> sums = PrefixSums(torch.zeros(1), lambda total, place: total + place)
        >>> [int(sums.of(n)) for n in (0, 2, 4, 11, 10, 3)]
        [0, 1, 6, 55, 45, 3]
    """

    def __init__(self, start: Tensor | None, grown: Callable[[Tensor | None, int], Tensor]) -> None:
        self._grown, self._longest = grown, 0
        self._kept: dict[int, Tensor | None] = {0: start}
        self._held: dict[int, Tensor | None] = {}

    def of(self, n: int) -> Tensor | None:
        """The sum of the first `n` terms."""
        place = n
        while place not in self._kept and place not in self._held:
            place -= 1
        total = self._held[place] if place in self._held else self._kept[place]
        if place == n:
            return total
        made = {}
        for term in range(place, n):
            made[term + 1] = total = self._grown(total, term)
            if (term + 1) % KEPT_EVERY == 0:
                self._kept[term + 1] = total
        # Forward, the last sum is all that the next one takes; on the way back, those between two kept ones are next.
        self._held = {n: total} if n > self._longest else made
        self._longest = max(self._longest, n)
        return total
