"""How well a share of prompts is known: Wilson's interval."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # of a normal distribution 95 % lie within so many standard deviations


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, which stays within 0 and 1 and is not empty at 0 and 1.

    Args:
        share: Of the prompts, from 0 to 1.
        n: How many prompts, at least 1.

    Returns:
        Its low and its high end.

    References:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Examples:
        >>> [round(end, 3) for end in wilson(1 / 3, 3)], [round(end, 3) for end in wilson(1.0, 16)]
        ([0.061, 0.792], [0.806, 1.0])
    """
    spread = _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def percent_between(share: float, n: int, of: str = "prompts") -> str:
    """A share of so many prompts with its interval, for a sentence.

    Examples:
        >>> percent_between(1 / 3, 3)
        '1 of 3 prompts (33 %, 95 % interval 6 to 79 %)'
    """
    low, high = (100 * end for end in wilson(share, n))
    return f"{round(share * n):,} of {n:,} {of} ({100 * share:.0f} %, 95 % interval {low:.0f} to {high:.0f} %)"
