"""Where prompts begin to differ from their counterfactuals, and where they are asked."""

from __future__ import annotations

import numpy as np

from pruning.prompts.encoding import EncodedPairs


def share_reached(pairs: EncodedPairs) -> float:
    """The share of tokens from the first that differs from the counterfactual to the last one asked.

    Args:
        pairs: The prompts.

    Examples:
        >>> from pruning.bench.prompts import random_prompts
        >>> share_reached(random_prompts(3, 8, d_vocab=50, seed=0).pairs)
        0.75
    """
    reached = 0
    for clean, corrupted, asked in zip(pairs.clean_ids, pairs.corrupted_ids, pairs.predict_positions, strict=True):
        differs = np.flatnonzero(clean != corrupted)
        if len(differs):
            reached += max(0, int(asked.max()) + 1 - int(differs[0]))
    return reached / int(pairs.lengths.sum())
