"""The computed null models against enumeration, exact fractions and scipy, and calibrated by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, hypergeom

from analysis.overlap.hypergeometric import hypergeometric_tails
from analysis.overlap.stratified import stratified_tails
from analysis.overlap.tails import ALTERNATIVES, Tails
from circuitgraph.errors import ConfigurationError, UnknownNameError
from tests.circuitgraph.graph.universes import STEADY

Pmf = dict[int, Fraction]


def exact_pmf(size: int, n_a: int, n_b: int) -> Pmf:
    whole = math.comb(size, n_b)
    counts = {
        k: math.comb(n_a, k) * math.comb(size - n_a, n_b - k) for k in range(min(n_a, n_b) + 1) if n_b - k <= size - n_a
    }
    return {k: Fraction(count, whole) for k, count in counts.items()}


def convolved(one: Pmf, other: Pmf) -> Pmf:
    sums: Pmf = {}
    for (j, p), (k, q) in product(one.items(), other.items()):
        sums[j + k] = sums.get(j + k, Fraction(0)) + p * q
    return sums


def log(p: Fraction) -> float:
    return math.log(p.numerator) - math.log(p.denominator)


def assert_tails(tails: Tails, pmf: Pmf, *, abs: float = 1e-9) -> None:
    x = tails.observed
    assert tails.log_at_least == pytest.approx(log(sum(p for k, p in pmf.items() if k >= x)), abs=abs)
    assert tails.log_at_most == pytest.approx(log(sum(p for k, p in pmf.items() if k <= x)), abs=abs)
    assert tails.log_equal == pytest.approx(log(pmf[x]), abs=abs)
    mean = sum(k * p for k, p in pmf.items())
    assert tails.expected == pytest.approx(float(mean))
    assert tails.sd == pytest.approx(math.sqrt(sum((k - mean) ** 2 * p for k, p in pmf.items())), abs=1e-9)


class TestHypergeometric:
    def test_every_case_of_up_to_six_items_by_enumeration(self):
        for size in range(1, 7):
            for n_a, n_b in product(range(size + 1), repeat=2):
                overlaps = [sum(item < n_a for item in drawn) for drawn in combinations(range(size), n_b)]
                pmf = {x: Fraction(overlaps.count(x), len(overlaps)) for x in set(overlaps)}
                for x in pmf:
                    assert_tails(hypergeometric_tails(x, size, n_a, n_b), pmf)

    @pytest.mark.parametrize(("size", "n_a", "n_b", "x"), [(94, 11, 20, 5), (500, 40, 60, 3), (1000, 900, 850, 770)])
    def test_as_scipy_has_it(self, size, n_a, n_b, x):
        tails = hypergeometric_tails(x, size, n_a, n_b)
        assert tails.p("greater") == pytest.approx(hypergeom.sf(x - 1, size, n_a, n_b))
        assert tails.p("less") == pytest.approx(hypergeom.cdf(x, size, n_a, n_b))
        square = [[x, n_a - x], [n_b - x, size - n_a - n_b + x]]
        for alternative in ("greater", "less"):
            assert tails.p(alternative) == pytest.approx(fisher_exact(square, alternative=alternative).pvalue)

    def test_tiny_values_against_whole_numbers(self):
        pmf = exact_pmf(3_877_661, 300, 310)
        for x in (0, 3, 40, 299, 300):
            assert_tails(hypergeometric_tails(x, 3_877_661, 300, 310), pmf, abs=1e-8)
        tails = hypergeometric_tails(300, 3_877_661, 300, 310)
        assert tails.p() == 0 and tails.log10_p() < -1200

    def test_impossible_overlaps_are_refused(self):
        for observed, size, n_a, n_b in [(4, 10, 3, 5), (0, 10, 6, 6), (-1, 10, 3, 3), (1, 3, 4, 1)]:
            with pytest.raises(ConfigurationError, match="no sets of"):
                hypergeometric_tails(observed, size, n_a, n_b)


@st.composite
def stratified_cases(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=12))
    return [(size, draw(st.integers(0, size)), draw(st.integers(0, size))) for size in sizes]


class TestStratified:
    def test_three_strata_by_enumeration(self):
        sizes, n_a, n_b = [3, 4, 2], [1, 3, 1], [2, 2, 1]
        per_stratum = [
            [sum(item < a for item in drawn) for drawn in combinations(range(size), b)]
            for size, a, b in zip(sizes, n_a, n_b, strict=True)
        ]
        overlaps = [sum(drawn) for drawn in product(*per_stratum)]
        pmf = {x: Fraction(overlaps.count(x), len(overlaps)) for x in set(overlaps)}
        for x in pmf:
            assert_tails(stratified_tails(x, np.array(sizes), np.array(n_a), np.array(n_b)), pmf)

    @settings(parent=STEADY, max_examples=60)
    @given(case=stratified_cases(), place=st.floats(0, 1))
    def test_any_strata_against_exact_fractions(self, case, place):
        pmf: Pmf = {0: Fraction(1)}
        for stratum in case:
            pmf = convolved(pmf, exact_pmf(*stratum))
        possible = sorted(pmf)
        # An overlap anywhere, and the two ends, where the tails are smallest.
        for x in {possible[round(place * (len(possible) - 1))], possible[0], possible[-1]}:
            assert_tails(stratified_tails(x, *np.array(case).T), pmf)

    def test_tiny_values_against_exact_fractions(self):
        case = [(1600, 30, 25), (1600, 12, 40), (400, 9, 9), (40, 10, 3)]
        pmf: Pmf = {0: Fraction(1)}
        for stratum in case:
            pmf = convolved(pmf, exact_pmf(*stratum))
        tails = stratified_tails(48, *np.array(case).T)
        assert_tails(tails, pmf)
        assert tails.log10_p() < -70
        assert tails.p("less") == 1

    def test_one_stratum_is_the_hypergeometric_null(self):
        for x in (0, 62, 900, 2093):
            one, other = (
                stratified_tails(x, *np.array([[70_651], [2093], [2100]])),
                hypergeometric_tails(x, 70_651, 2093, 2100),
            )
            for name in ("log_at_least", "log_at_most", "log_equal", "expected", "sd"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-8, abs=1e-8), name

    def test_far_below_the_smallest_float(self):
        sizes, counts = np.full(300, 1600), np.full(300, 8)
        tails = stratified_tails(2400, sizes, counts, counts)
        each = math.comb(1600, 8)
        assert tails.log10_p() == pytest.approx(-300 * math.log10(each), rel=1e-9)
        assert tails.log10_p() < -5000 and tails.p("less") == 1 and math.isfinite(tails.log_at_most)

    def test_nothing_in_common_is_certain(self):
        tails = stratified_tails(0, np.array([5, 5]), np.array([3, 0]), np.array([0, 3]))
        assert (tails.expected, tails.sd, tails.ratio) == (0, 0, 1)
        assert [tails.p(alternative) for alternative in ALTERNATIVES] == [1, 1, 1]

    def test_impossible_cases_are_refused(self):
        with pytest.raises(ConfigurationError, match="stratum 1 has 2 items; sets of 3 and 1 do not fit"):
            stratified_tails(1, np.array([5, 2]), np.array([1, 3]), np.array([1, 1]))
        with pytest.raises(ConfigurationError, match="share 3 items; expected 0 to 2"):
            stratified_tails(3, np.array([5, 5]), np.array([1, 1]), np.array([1, 1]))


class TestTails:
    def test_sampled_tails_by_hand(self):
        tails = Tails.of_samples(5, np.array([3, 4, 5, 5, 6, 2, 3, 4, 1]))
        assert tails.p("greater") == pytest.approx((1 + 3) / 10)
        assert tails.p("less") == pytest.approx((1 + 8) / 10)
        assert tails.p("two-sided") == pytest.approx(0.8)
        # Half of the observation and of the two samples that equal it.
        assert tails.mid_p("greater") == pytest.approx((1 + 3) / 10 - 0.5 * (1 + 2) / 10)
        assert tails.expected == pytest.approx(33 / 9) and tails.n_samples == 9
        assert tails.sd == pytest.approx(np.std([3, 4, 5, 5, 6, 2, 3, 4, 1], ddof=1))

    def test_sampled_p_is_never_zero(self):
        assert Tails.of_samples(9, np.zeros(99, dtype=int)).p() == pytest.approx(0.01)

    def test_two_sided_is_twice_the_smaller_and_at_most_one(self):
        assert hypergeometric_tails(2, 5, 2, 3).p("two-sided") == pytest.approx(0.6)
        assert hypergeometric_tails(1, 5, 2, 3).p("two-sided") == 1

    def test_mid_p_takes_half_of_the_observed(self):
        # Of 10 sets, 1 shares none, 6 share one, 3 share two.
        tails = hypergeometric_tails(1, 5, 2, 3)
        assert tails.mid_p("greater") == pytest.approx(0.3 + 0.3)
        assert tails.mid_p("less") == pytest.approx(0.1 + 0.3)
        assert tails.mid_p("two-sided") == pytest.approx(0.8)

    def test_ratio(self):
        assert Tails.of_samples(2, np.array([0, 0])).ratio == math.inf
        assert Tails.of_samples(0, np.array([0, 0])).ratio == 1
        assert Tails.of_samples(3, np.array([1, 2])).ratio == 2

    def test_unknown_alternative(self):
        with pytest.raises(UnknownNameError, match="did you mean 'greater'"):
            hypergeometric_tails(1, 5, 2, 3).p("greather")


# -------------------------------------------------------------------- calibration

SIZES, N_A, N_B = np.array([40, 25, 60, 9]), np.array([10, 3, 20, 4]), np.array([8, 5, 15, 3])


def drawn_overlap(rng: np.random.Generator, stratified: bool) -> int:
    """Draw a set of the second kind's size, and count what it shares with the first items of each stratum."""
    strata = np.repeat(np.arange(4), SIZES)
    place = np.concatenate([np.arange(size) for size in SIZES])
    in_a = place < N_A[strata]
    if not stratified:
        return int(in_a[rng.permutation(len(strata))[: N_B.sum()]].sum())
    return sum(int(in_a[rng.choice(np.flatnonzero(strata == s), n, replace=False)].sum()) for s, n in enumerate(N_B))


NULLS: dict[str, Callable[[int], Tails]] = {
    "hypergeometric": lambda x: hypergeometric_tails(x, int(SIZES.sum()), int(N_A.sum()), int(N_B.sum())),
    "stratified": lambda x: stratified_tails(x, SIZES, N_A, N_B),
}


@pytest.mark.parametrize("null", NULLS)
def test_calibrated_by_simulation(null):
    n, rng = 4000, np.random.default_rng(0)
    overlaps = np.array([drawn_overlap(rng, null == "stratified") for _ in range(n)])
    tails = {x: NULLS[null](x) for x in np.unique(overlaps).tolist()}
    assert overlaps.mean() == pytest.approx(tails[overlaps[0]].expected, abs=4 * overlaps.std() / math.sqrt(n))
    assert overlaps.std() == pytest.approx(tails[overlaps[0]].sd, rel=0.05)
    for alternative in ALTERNATIVES:
        p = np.array([tails[x].p(alternative) for x in overlaps.tolist()])
        mid = np.array([tails[x].mid_p(alternative) for x in overlaps.tolist()])
        for alpha in (0.01, 0.05, 0.1, 0.25, 0.5):
            noise = 3 * math.sqrt(alpha * (1 - alpha) / n)
            assert (p <= alpha).mean() <= alpha + noise, (alternative, alpha)
            # Near uniform: within one step of the distribution.
            step = max(math.exp(found.log_equal) for found in tails.values())
            assert (mid <= alpha).mean() == pytest.approx(alpha, abs=step + noise), (alternative, alpha)
        if alternative != "two-sided":
            assert mid.mean() == pytest.approx(0.5, abs=4 * mid.std() / math.sqrt(n))
            assert p.mean() > 0.5
