"""The hypergeometric null model: edges are drawn from the whole universe, without regard to anything."""

from __future__ import annotations

import numpy as np
from scipy.stats import hypergeom

from analysis.overlap.tails import Tails
from circuitgraph.errors import ConfigurationError


def hypergeometric_tails(observed: int, n_universe: int, n_a: int, n_b: int) -> Tails:
    """Where an overlap lies if one of two sets is drawn at random.

    All C(n_universe, n_b) sets of that size are equally likely; which of the two sets is drawn makes no
    difference. Computed by scipy from log-probabilities, so that p-values far below the smallest float keep
    a relative error of about 1e-8.

    Args:
        observed: Items in both sets.
        n_universe: Items in all.
        n_a: Items in one set.
        n_b: Items in the other.

    Returns:
        The expected overlap n_a n_b / n_universe and the tails.

    Raises:
        ConfigurationError: No two sets of these sizes have this overlap.

    Examples:
        Of the 10 sets of 3 out of 5 items, 3 share at least 2 of 2 given ones:

        >>> tails = hypergeometric_tails(2, 5, 2, 3)
        >>> round(tails.p("greater"), 12), tails.expected
        (0.3, 1.2)
    """
    possible = range(max(0, n_a + n_b - n_universe), min(n_a, n_b) + 1)
    if not (0 <= n_a <= n_universe and 0 <= n_b <= n_universe and observed in possible):
        raise ConfigurationError(
            f"no sets of {n_a} and {n_b} items out of {n_universe} share {observed}; "
            f"expected {possible.start} to {possible.stop - 1}"
        )
    drawn = (n_universe, n_a, n_b)
    return Tails(
        observed=observed,
        expected=n_a * n_b / n_universe,
        sd=float(np.sqrt(overlap_variance(n_universe, n_a, n_b))),
        log_at_least=float(hypergeom.logsf(observed - 1, *drawn)) if observed > possible.start else 0.0,
        log_at_most=float(hypergeom.logcdf(observed, *drawn)) if observed < possible.stop - 1 else 0.0,
        log_equal=float(hypergeom.logpmf(observed, *drawn)),
    )


def overlap_variance(n_universe: int | np.ndarray, n_a: int | np.ndarray, n_b: int | np.ndarray) -> float | np.ndarray:
    """Variance of the overlap of sets of given sizes; 0 where the universe has one item."""
    share = n_a / np.asarray(n_universe, dtype=np.float64)
    return n_b * share * (1 - share) * (n_universe - n_b) / np.maximum(np.asarray(n_universe) - 1, 1)
