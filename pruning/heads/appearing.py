"""Heads that appear with a demonstration: what heads say on two sets of prompts, compared."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuitgraph.errors import ConfigurationError, GraphMismatchError
from pruning.evaluation.intervals import resampled_means
from pruning.heads.capture import Capture, means_by_prompt

TOP = 10


def appearing_heads(before: Capture, after: Capture, *, top: int = TOP, seed: int = 0) -> pd.DataFrame:
    """Which heads speak up on other prompts, such as the same questions after a demonstration.

    Args:
        before: What was captured on prompts without it.
        after: What was captured on prompts with it, in the same model; the prompts need not be the same in number.
        top: How many heads count as those that speak most.
        seed: Of the bootstrap over prompts.

    Returns:
        A row per head, the largest change first: `head`, `before` and `after` (its direct effect on the right answer,
        less the average over the vocabulary), `change` with `low` and `high` (95 %, prompts of both sets drawn anew),
        `place_before` and `place_after` (1 for the largest effect), and `appears`: among the first `top` after and not
        before, with an interval above 0. Of n heads without any change, about 2.5 % of those that are among the first
        only afterwards would pass.

    Raises:
        GraphMismatchError: Captures of different models' graphs.
        ConfigurationError: Not the same heads, none, or a `top` below 1.
    """
    difference = before.universe.first_difference(after.universe)
    if difference is not None:
        raise GraphMismatchError(f"the captures are of different graphs: {difference}; capture both in one model")
    if before.heads != after.heads or not before.heads:
        raise ConfigurationError("the captures have to hold the same heads, at least one; give both the same nodes")
    if top < 1:
        raise ConfigurationError(f"top must be 1 or more; got {top}")
    sides = [_by_prompt(one) for one in (before, after)]
    draws = [resampled_means(values, seed=2 * seed + place) for place, values in enumerate(sides)]
    low, high = np.nanpercentile(draws[1] - draws[0], (2.5, 97.5), axis=0)
    means = [np.nanmean(values, axis=0) for values in sides]
    places = [np.argsort(np.argsort(-values, kind="stable")) + 1 for values in means]
    frame = pd.DataFrame(
        {
            "head": before.heads, "before": means[0], "after": means[1], "change": means[1] - means[0],
            "low": low, "high": high, "place_before": places[0], "place_after": places[1],
            "appears": (places[1] <= top) & (places[0] > top) & (low > 0),
        }
    )  # fmt: skip
    return frame.sort_values("change", ascending=False, ignore_index=True, kind="stable")


def _by_prompt(found: Capture) -> np.ndarray:
    """Direct effects `[prompt head]`, means over a prompt's asked positions."""
    rows = [found.index(name) for name in found.heads]
    values = (found.direct["right"] - found.direct["average"])[rows]
    return means_by_prompt(values, found.asked[:, 0])
