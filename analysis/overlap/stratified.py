"""The stratified null model: edges are drawn within each stratum, as many as the circuits keep there.

The overlap is then a sum of independent hypergeometric variables, one a stratum, and its distribution is
their convolution. It is computed exactly and without Fourier transforms, which would lose everything below
1e-16. So that nothing underflows either, the distributions are tilted first:

1. Every stratum's P(k) becomes P(k) e^(θk) / M(θ), with one θ for all, chosen such that the mean of the sum
   is the observed overlap x. All factors around x are then of ordinary size.
2. The tilted distributions are convolved directly. All terms are positive, so nothing cancels. What falls
   below 1e-80 of the largest is dropped: far less than rounding.
3. P(X = k) = (tilted P of k) e^(-θk) ∏ M(θ), in logarithms, and tails are sums of it away from x.

The tilt is that of the saddlepoint approximation, but nothing here is approximated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar
from scipy.stats import hypergeom

from analysis.overlap.hypergeometric import overlap_variance
from analysis.overlap.tails import Tails
from circuitgraph.errors import ConfigurationError

_NEGLIGIBLE = 1e-80


def stratified_tails(observed: int, sizes: np.ndarray, n_a: np.ndarray, n_b: np.ndarray) -> Tails:
    """Where an overlap lies if sets are drawn at random within strata.

    Args:
        observed: Items in both sets, over all strata.
        sizes: Items of the universe in every stratum `[stratum]`.
        n_a: Items of one set in every stratum `[stratum]`.
        n_b: Items of the other in every stratum `[stratum]`.

    Returns:
        The expected overlap Σ n_a n_b / sizes and the tails.

    Raises:
        ConfigurationError: A stratum holds fewer items than a set has there, or no two such sets have this
            overlap.

    Examples:
        Two strata of two items, one in each set: both shared with probability 1/4.

        >>> tails = stratified_tails(2, np.array([2, 2]), np.array([1, 1]), np.array([1, 1]))
        >>> round(tails.p("greater"), 12), tails.expected
        (0.25, 1.0)
    """
    sizes, n_a, n_b = (np.asarray(counts, dtype=np.int64) for counts in (sizes, n_a, n_b))
    if not (np.all((n_a >= 0) & (n_b >= 0)) and np.all((n_a <= sizes) & (n_b <= sizes))):
        worst = int(np.argmax(np.maximum(n_a, n_b) - sizes))
        raise ConfigurationError(
            f"stratum {worst} has {sizes[worst]} items; sets of {n_a[worst]} and {n_b[worst]} do not fit"
        )
    taking_part = (n_a > 0) & (n_b > 0)
    sizes, n_a, n_b = sizes[taking_part], n_a[taking_part], n_b[taking_part]
    least, most = int(np.maximum(0, n_a + n_b - sizes).sum()), int(np.minimum(n_a, n_b).sum())
    if not least <= observed <= most:
        raise ConfigurationError(f"no sets of these sizes share {observed} items; expected {least} to {most}")
    log_at_least, log_at_most, log_equal = _log_tails(_Strata.of(sizes, n_a, n_b), observed, least, most)
    return Tails(
        observed=observed,
        expected=float((n_a * n_b / sizes).sum()),
        sd=float(np.sqrt(np.sum(overlap_variance(sizes, n_a, n_b)))),
        log_at_least=log_at_least,
        log_at_most=log_at_most,
        log_equal=log_equal,
    )


@dataclass(frozen=True, kw_only=True)
class _Strata:
    """Distributions of the overlap in every stratum, one after the other.

    Attributes:
        values: Possible overlaps, rising within a stratum `[entry]`.
        log_pmf: Log-probability of each `[entry]`.
        starts: Where each stratum begins `[stratum]`.
    """

    values: np.ndarray
    log_pmf: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray, n_a: np.ndarray, n_b: np.ndarray) -> _Strata:
        low, high = np.maximum(0, n_a + n_b - sizes), np.minimum(n_a, n_b)
        lengths = high - low + 1
        starts = np.cumsum(lengths) - lengths
        values = np.arange(lengths.sum()) - np.repeat(starts - low, lengths)
        log_pmf = hypergeom.logpmf(values, *(np.repeat(counts, lengths) for counts in (sizes, n_a, n_b)))
        return cls(values=values, log_pmf=log_pmf, starts=starts)

    def tilted(self, theta: float) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities tilted by θ `[entry]`, and log M(θ) of every stratum `[stratum]`."""
        logs = self.log_pmf + theta * self.values
        lengths = np.diff(np.append(self.starts, len(logs)))
        largest = np.maximum.reduceat(logs, self.starts)
        log_m = largest + np.log(np.add.reduceat(np.exp(logs - np.repeat(largest, lengths)), self.starts))
        return np.exp(logs - np.repeat(log_m, lengths)), log_m

    def mean(self, theta: float) -> float:
        """Mean of the sum, tilted by θ."""
        return float(self.tilted(theta)[0] @ self.values)


def _log_tails(strata: _Strata, observed: int, least: int, most: int) -> tuple[float, float, float]:
    """Logarithms of P(X ≥ x), P(X ≤ x) and P(X = x)."""
    if least == most:
        return 0.0, 0.0, 0.0
    theta = _tilt(strata, min(max(observed, least + 0.25), most - 0.25))
    weights, log_m = strata.tilted(theta)
    pmf, first = _convolve(strata, weights)
    place = observed - first
    log_factor = float(log_m.sum()) - theta * observed
    # A positive tilt lifts the upper tail, whose terms then fall away from x; the rest is 1 minus it.
    tail = pmf[place:] if theta >= 0 else pmf[: place + 1][::-1]
    log_near = log_factor + math.log(float(tail @ np.exp(-abs(theta) * np.arange(len(tail)))))
    log_equal = log_factor + math.log(float(pmf[place]))
    log_near, log_equal = min(log_near, 0.0), min(log_equal, log_near, 0.0)
    far = min(1.0, 1.0 - math.exp(log_near) + math.exp(log_equal))
    log_far = max(math.log(far), log_equal) if far > 0 else log_equal
    return (log_near, log_far, log_equal) if theta >= 0 else (log_far, log_near, log_equal)


def _tilt(strata: _Strata, mean: float) -> float:
    """The θ at which the sum has a given mean, roughly: any θ near it is as exact."""
    bound = 1.0
    while not strata.mean(-bound) < mean < strata.mean(bound):
        bound *= 2
    return root_scalar(lambda theta: strata.mean(theta) - mean, bracket=(-bound, bound), xtol=1e-3).root


def _convolve(strata: _Strata, weights: np.ndarray) -> tuple[np.ndarray, int]:
    """Distribution of the sum, and the value that its first entry is of."""
    first, total = 0, np.ones(1)
    for start, stop in zip(strata.starts, [*strata.starts[1:], len(weights)], strict=True):
        stratum, skipped = _trim(weights[start:stop])
        total, dropped = _trim(np.convolve(total, stratum))
        first += int(strata.values[start]) + skipped + dropped
    return total, first


def _trim(pmf: np.ndarray) -> tuple[np.ndarray, int]:
    """Drop what is negligible at both ends, and say how much at the first."""
    kept = np.flatnonzero(pmf > _NEGLIGIBLE * pmf.max())
    return pmf[kept[0] : kept[-1] + 1], int(kept[0])
