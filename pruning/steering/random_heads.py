"""The baseline of a search for heads: what cutting as many heads drawn at random does to the same prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.interventions.applied import intervene
from circuitgraph.interventions.intervention import Intervention
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.judged import MEASURES, judge_runs


def judge_random_heads(
    compiled: CompiledModel,
    n_heads: int,
    pairs: EncodedPairs,
    *,
    n_draws: int = 5,
    seed: int = 0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Cut heads drawn at random, without replacement within a draw, and measure what that does.

    Args:
        compiled: The model.
        n_heads: How many heads each draw cuts (zero ablation of all that they write).
        pairs: Prompts with right and wrong answers.
        n_draws: How many draws.
        seed: Of the draws.
        batch_size: Prompts run at once; halved when memory runs out.

    Returns:
        A row per draw: `draw`, `heads` (names, separated by spaces) and the measures of `judge_intervention`.

    Raises:
        ConfigurationError: More heads than the model has, a negative number of draws, or prompts without wrong answers.
    """
    universe = compiled.universe
    heads = np.flatnonzero(universe.writer_kinds == "head")
    if not 0 <= n_heads <= len(heads):
        raise ConfigurationError(f"n_heads must be from 0 to {len(heads)}, the heads of the model; got {n_heads}")
    if n_draws < 0:
        raise ConfigurationError(f"n_draws must be at least 0; got {n_draws}")
    random = np.random.default_rng(seed)
    draws = [np.sort(random.choice(heads, n_heads, replace=False)) for _ in range(n_draws)]
    names = [[universe.writers[head] for head in draw] for draw in draws]
    cuts = [Intervention.from_writers(universe, dict.fromkeys(some, -1.0)) for some in names]
    runs = [intervene(compiled, cut).logits for cut in cuts]
    if not runs:
        return pd.DataFrame(columns=["draw", "heads", *MEASURES])
    judged = judge_runs(compiled, runs, pairs, range(n_draws), batch_size=batch_size)
    judged = judged.rename(columns={"strength": "draw"})
    judged.insert(1, "heads", [" ".join(some) for some in names])
    return judged
