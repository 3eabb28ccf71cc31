"""How sure a mean over prompts is: intervals from a bootstrap over prompts.

The prompts of a split are taken as a sample of all prompts of their task. They are drawn again, with replacement, as
many as there are; the measure's mean is taken of each such draw; and the interval holds the middle 95 % of these means
(percentile bootstrap, Efron 1979). All measures of all circuits see the same draws, so that a difference between two
circuits is paired: what makes a prompt hard for both does not widen it.

What an interval does not hold: another task, another model, another training seed, other random circuits. With fewer
than some twenty prompts it is too narrow.

Where all prompts agree on a share (20 of 20 right), every draw says the same, and a bootstrap would call that certain.
There, and only there, the bounds are those of Wilson (1927): 20 of 20 is 83.9 to 100 %.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float

from pruning.evaluation.proportion import wilson

LEVEL = 0.95
N_RESAMPLES = 2000
SEED = 0
_COUNTS_AT_ONCE = 1 << 22

Interval = list[float] | None
Difference = dict[str, float | None]


def resampled_means(
    values: Float[np.ndarray, "prompt column"], *, n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> Float[np.ndarray, "resample column"]:
    """Means of columns over prompts that are drawn again with replacement, the same ones for all columns.

    Args:
        values: One value per prompt and column; NaN where a prompt has none, and then it is left out of that mean.
        n_resamples: How often prompts are drawn.
        seed: Of the draws.

    Returns:
        Means; NaN where none of the drawn prompts has a value.

    Examples:
        >>> means = resampled_means(np.array([[0.0], [0.0], [3.0]]))
        >>> sorted(set(means[:, 0].tolist()))  # none of three prompts drawn is the third one, or one, two or three
        [0.0, 1.0, 2.0, 3.0]
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    defined = ~np.isnan(values)
    sums = np.where(defined, values, 0.0)
    found = []
    at_once = max(1, _COUNTS_AT_ONCE // n)
    for start in range(0, n_resamples, at_once):
        rows = min(at_once, n_resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        with np.errstate(invalid="ignore"):
            found.append((times @ sums) / (times @ defined))
    return np.concatenate(found)


def intervals_of(
    columns: Mapping[str, Float[np.ndarray, " prompt"]],
    *,
    shares: Collection[str] = (),
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> dict[str, Interval]:
    """Bounds of each column's mean.

    Args:
        columns: By name, one value per prompt; NaN where a prompt has none.
        shares: Names of columns whose values are shares, from 0 to 1.
        level: How much of the means lies between the bounds.
        n_resamples: How often prompts are drawn.
        seed: Of the draws; the same for all columns.

    Returns:
        By name the lower and the upper bound; None where fewer than two prompts have a value.

    References:
        Efron, B. (1979). Bootstrap methods: another look at the jackknife. Annals of Statistics 7, 1-26.
        Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.

    Examples:
        >>> found = intervals_of({"kl": np.array([0.5, 0.5]), "accuracy": np.ones(20)}, shares=["accuracy"])
        >>> found["kl"], round(found["accuracy"][0], 3)
        ([0.5, 0.5], 0.839)
    """
    found: dict[str, Interval] = {}
    open_ones = []
    for name, values in columns.items():
        known = values[~np.isnan(values)]
        found[name] = None
        if len(known) < 2:
            continue
        if known.min() < known.max():
            open_ones.append(name)
        else:
            found[name] = _of_equal_values(float(known[0]), len(known), is_share=name in shares)
    if not open_ones:
        return found
    means = resampled_means(np.stack([columns[name] for name in open_ones], 1), n_resamples=n_resamples, seed=seed)
    tail = (1 - level) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail], axis=0)
    for place, name in enumerate(open_ones):
        found[name] = [float(low[place]), float(high[place])]
    return found


def differences_of(
    ours: Mapping[str, Float[np.ndarray, " prompt"]],
    theirs: Mapping[str, Float[np.ndarray, " prompt"]],
    *,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Mean differences, prompt by prompt, and their bounds.

    Args:
        ours: By name, one value per prompt; NaN where a prompt has none.
        theirs: The same of what is compared with; names that only one of both has are left out.
        level: How much of the resampled means lies between the bounds.
        n_resamples: How often prompts are drawn.
        seed: Of the draws.

    Returns:
        By name `mean` (ours minus theirs, over the prompts that have both), `low` and `high`; None where no prompt, or
        for the bounds fewer than two, has both.

    Examples:
        >>> differences_of({"kl": np.array([1.0, 2.0])}, {"kl": np.array([0.5, 1.5])})
        {'kl': {'mean': 0.5, 'low': 0.5, 'high': 0.5}}
    """
    apart = {name: values - theirs[name] for name, values in ours.items() if name in theirs}
    bounds = intervals_of(apart, level=level, n_resamples=n_resamples, seed=seed)
    found: dict[str, Difference] = {}
    for name, values in apart.items():
        low, high = bounds[name] or (None, None)
        found[name] = {"mean": mean_of(values), "low": low, "high": high}
    return found


def mean_of(values: Float[np.ndarray, " prompt"]) -> float | None:
    """Mean of the values that are there; None where there are none.

    Args:
        values: One per prompt; NaN where a prompt has none.
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _of_equal_values(value: float, n: int, *, is_share: bool) -> list[float]:
    """Bounds where all prompts say the same."""
    return list(wilson(value, n)) if is_share and value in (0, 1) else [value, value]
