"""Which prompts stand for many: a sample of a split, drawn once and without replacement.

Random circuits are a baseline far from the circuit, and there are many of them; on all prompts they would take most of
an evaluation. So they run on a sample, and are compared with the circuit on these prompts alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from circuitgraph.errors import ConfigurationError

N_RANDOM_PROMPTS = 32
"""On how many prompts of a split random circuits run by default."""


def sampled_prompts(n: int, most: int | None, seed: int) -> Int[np.ndarray, " prompt"]:
    """Draw prompts, each as likely as any other.

    Args:
        n: How many there are.
        most: How many to draw; all where there are not more, and where it is None.
        seed: Of the draw. A smaller sample of the same seed is part of a larger one.

    Returns:
        Their places, rising.

    Raises:
        ConfigurationError: Fewer than one is asked for.

    Examples:
        >>> sampled_prompts(4, 8, seed=0).tolist(), sampled_prompts(200, 3, seed=0).tolist()
        ([0, 1, 2, 3], [6, 105, 168])
    """
    if most is not None and most < 1:
        raise ConfigurationError(f"expected a sample of 1 prompt or more, or None for all prompts; got {most}")
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
