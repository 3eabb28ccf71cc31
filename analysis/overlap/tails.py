"""What a null model says about an observed overlap: expectation, spread, and p-values in log space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from circuitgraph.errors import UnknownNameError

ALTERNATIVES = ("greater", "less", "two-sided")


@dataclass(frozen=True, kw_only=True)
class Tails:
    """An observed overlap x and the distribution of the overlap X under a null model, as far as it matters.

    Attributes:
        observed: x.
        expected: The mean of X.
        sd: The standard deviation of X.
        log_at_least: Natural logarithm of P(X ≥ x).
        log_at_most: Natural logarithm of P(X ≤ x).
        log_equal: Natural logarithm of P(X = x).
        n_samples: How many samples stand behind this; None where it was computed.
    """

    observed: int
    expected: float
    sd: float
    log_at_least: float
    log_at_most: float
    log_equal: float
    n_samples: int | None = None

    @classmethod
    def of_samples(cls, observed: int, samples: np.ndarray) -> Tails:
        """Estimate the tails from samples of X, the observation counted as one of them.

        Args:
            observed: x.
            samples: Overlaps drawn under the null model, at least one `[sample]`.

        Returns:
            Tails with P(X ≥ x) = (1 + b) / (1 + N), where b of the N samples reach x, and so on. These are
            valid p-values for any N, and never 0. Mean and spread are those of the samples alone.

        Examples:
            >>> tails = Tails.of_samples(3, np.array([1, 2, 3]))
            >>> tails.p("greater"), tails.p("less"), tails.expected
            (0.5, 1.0, 2.0)

        References:
            Phipson and Smyth 2010, "Permutation p-values should never be zero".
        """
        n = len(samples)
        at_least, at_most, equal = (
            math.log((1 + int(hits.sum())) / (1 + n))
            for hits in (samples >= observed, samples <= observed, samples == observed)
        )
        return cls(
            observed=observed,
            expected=float(samples.mean()),
            sd=float(samples.std(ddof=1)) if n > 1 else 0.0,
            log_at_least=at_least,
            log_at_most=at_most,
            log_equal=equal,
            n_samples=n,
        )

    @property
    def ratio(self) -> float:
        """Observed over expected: 1 where both are 0, infinite where only the expectation is."""
        if self.expected == 0:
            return 1.0 if self.observed == 0 else math.inf
        return self.observed / self.expected

    def log10_p(self, alternative: str = "greater") -> float:
        """Decimal logarithm of the p-value.

        Args:
            alternative: `greater`: P(X ≥ x). `less`: P(X ≤ x). `two-sided`: twice the smaller of the two, at
                most 1.

        Returns:
            The logarithm, finite where the p-value itself would underflow to 0.

        Raises:
            UnknownNameError: No such alternative.
        """
        return self._side(alternative, self.log_at_least, self.log_at_most) / math.log(10)

    def p(self, alternative: str = "greater") -> float:
        """The p-value; 0 where it is below the smallest float, so prefer `log10_p`."""
        return math.exp(self._side(alternative, self.log_at_least, self.log_at_most))

    def at_floor(self, alternative: str = "greater") -> bool:
        """Whether the p-value is the smallest that so many samples can give: the true one may be far smaller."""
        if self.n_samples is None:
            return False
        floor = -math.log(1 + self.n_samples) + (math.log(2) if alternative == "two-sided" else 0.0)
        return self._side(alternative, self.log_at_least, self.log_at_most) <= min(floor, 0.0) + 1e-12

    def mid_p(self, alternative: str = "greater") -> float:
        """The p-value with only half of P(X = x): not conservative, but near uniform under the null model."""
        at_least, at_most = (
            side + math.log1p(-0.5 * math.exp(min(0.0, self.log_equal - side)))
            for side in (self.log_at_least, self.log_at_most)
        )
        return math.exp(self._side(alternative, at_least, at_most))

    @staticmethod
    def _side(alternative: str, at_least: float, at_most: float) -> float:
        if alternative not in ALTERNATIVES:
            raise UnknownNameError.of("alternative", alternative, ALTERNATIVES)
        if alternative == "two-sided":
            return min(0.0, math.log(2) + min(at_least, at_most))
        return at_least if alternative == "greater" else at_most
