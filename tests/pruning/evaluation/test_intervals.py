"""Intervals: against the enumeration of all draws, scipy, and Wilson's formula by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from pruning.evaluation.intervals import differences_of, intervals_of, mean_of, resampled_means
from pruning.evaluation.summary import summary, summary_of_random
from tests.pruning.prompts.small_prompts import GlobalRandomState


def test_means_are_drawn_as_often_as_an_enumeration_says() -> None:
    values = np.array([0.0, 1.0, 5.0])
    # All 27 draws of three prompts out of three are equally likely.
    expected: dict[float, float] = {}
    for draw in product(values.tolist(), repeat=3):
        mean = round(sum(draw) / 3, 9)
        expected[mean] = expected.get(mean, 0) + 1 / 27
    means = resampled_means(values[:, None], n_resamples=40_000).round(9)
    found = {value: float((means == value).mean()) for value in expected}
    assert sum(found.values()) == 1
    assert found == pytest.approx(expected, abs=0.008)


def test_bounds_of_three_prompts_are_those_of_the_enumeration() -> None:
    # 1, 2 and 6: the least of all means, 1, has 1/27 = 3.7 % of the draws, so the 2.5 % quantile is 1; the largest, 6,
    # has 3.7 % as well, so the 97.5 % quantile is 6. At level 0.8 (10 % off each end): after 1 (3.7 %) comes 4/3 (3 of
    # 27, together 14.8 %); before 6 comes 14/3 (3 of 27).
    values = {"kl": np.array([1.0, 2.0, 6.0])}
    assert intervals_of(values)["kl"] == [1.0, 6.0]
    assert intervals_of(values, level=0.8)["kl"] == pytest.approx([4 / 3, 14 / 3])


def test_bounds_are_scipys() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(5)
    ).confidence_interval
    ours = intervals_of({"kl": values}, n_resamples=20_000)["kl"]
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.01)
    assert ours[0] < values.mean() < ours[1]


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """Of 300 samples of 40 prompts, about 95 % of the intervals hold the true mean 1."""
    rng = np.random.default_rng(0)
    columns = {str(i): rng.gamma(2.0, 0.5, size=40) for i in range(300)}
    inside = [low <= 1 <= high for low, high in intervals_of(columns, n_resamples=400).values()]
    assert 0.90 <= np.mean(inside) <= 0.98


def test_shares_on_which_all_prompts_agree_have_wilsons_bounds() -> None:
    z = stats.norm.ppf(0.975)
    columns = {"right": np.ones(20), "wrong": np.zeros(20), "kl": np.ones(20), "some": np.repeat([0.0, 1.0], 10)}
    found = intervals_of(columns, shares=["right", "wrong", "some"])
    wilson = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert found["right"] == pytest.approx([wilson.low, 1.0])
    assert found["right"][0] == pytest.approx(20 / (20 + z**2))
    assert found["wrong"] == pytest.approx([0.0, 1 - wilson.low])
    assert found["kl"] == [1.0, 1.0], "a measure that is no share is what it is"
    assert found["some"] == pytest.approx([0.3, 0.7], abs=0.051)


def test_too_few_prompts_have_no_interval() -> None:
    nan = np.nan
    columns = {"one": np.array([0.5, nan, nan]), "none": np.full(3, nan), "two": np.array([0.5, 1.5, nan])}
    found = intervals_of(columns)
    assert found["one"] is None and found["none"] is None
    assert found["two"] == [0.5, 1.5]
    assert [mean_of(values) for values in columns.values()] == [0.5, None, 1.0]


def test_prompts_without_a_value_are_left_out_of_each_mean() -> None:
    # Three of six prompts have a value: the bounds are those of a mean over whichever of them are drawn.
    values = np.array([1.0, np.nan, 2.0, np.nan, 3.0, np.nan])
    means = resampled_means(values[:, None])
    assert set(np.round(means[~np.isnan(means)], 9)) <= {
        round(sum(draw) / n, 9) for n in range(1, 7) for draw in product([1.0, 2.0, 3.0], repeat=n)
    }
    assert 0 < np.isnan(means).mean() < 0.05, "1 of 64 draws has none of them"
    assert intervals_of({"kl": values})["kl"] == pytest.approx([1.0, 3.0])


def test_differences_are_paired() -> None:
    """What makes a prompt hard for both does not widen the difference's interval."""
    hard = np.random.default_rng(1).exponential(5.0, size=50)
    ours, theirs = {"kl": hard + 0.1, "mine": hard}, {"kl": hard, "theirs": hard}
    found = differences_of(ours, theirs)
    assert set(found) == {"kl"}
    assert [found["kl"][name] for name in ("mean", "low", "high")] == pytest.approx([0.1] * 3)
    alone = intervals_of({"kl": ours["kl"]})["kl"]
    assert alone[1] - alone[0] > 2
    ours["kl"][3] = np.nan
    assert differences_of(ours, theirs)["kl"]["mean"] == pytest.approx(0.1)
    assert differences_of({"kl": hard[:1]}, {"kl": hard[:1] - 2.0}) == {"kl": {"mean": 2.0, "low": None, "high": None}}


def test_draws_hang_on_the_seed_alone() -> None:
    values = np.random.default_rng(2).exponential(size=30)
    state = GlobalRandomState()
    first, again, other = (intervals_of({"kl": values}, seed=seed)["kl"] for seed in (0, 0, 1))
    state.assert_untouched()
    assert first == again != other
    # Drawn in portions or at once, beside other columns or alone.
    assert intervals_of({"x": values**2, "kl": values})["kl"] == pytest.approx(first)


def test_a_summary_counts_what_it_leaves_out() -> None:
    nan = np.nan
    full = {"exact_match": np.ones(4), "kl": np.zeros(4), "accuracy": np.array([1.0, 1, 0, 0])}
    columns = {
        "kl": np.array([1.0, 2.0, nan, 3.0]),
        "exact_match": np.array([1.0, 0.0, nan, 1.0]),
        "accuracy": np.array([1.0, 0.0, nan, 1.0]),
        "logit_diff": np.array([nan, 0.5, nan, 1.5]),
    }
    found = summary(columns, full)
    assert (found["n"], found["n_undefined"]) == (4, 1)
    assert found["kl"] == 2 and found["n_kl"] == 3
    assert found["logit_diff"] == 1 and found["n_logit_diff"] == 2
    assert found["accuracy"] == pytest.approx(2 / 3) and found["n_accuracy"] == 3
    assert (found["n_full_right"], found["agreement_full_right"], found["agreement_full_wrong"]) == (2, 0.5, 1)
    assert found["intervals"]["agreement_full_wrong"] is None, "one prompt that the model gets wrong is defined"
    assert "n_accuracy" not in summary(full, full)


def test_the_full_model_is_itself_for_sure() -> None:
    full = {"exact_match": np.ones(20), "kl": np.zeros(20), "accuracy": np.ones(20)}
    bounds = summary(full, full)["intervals"]
    assert bounds["exact_match"] == [1, 1] and bounds["kl"] == [0, 0] and bounds["agreement_full_right"] == [1, 1]
    assert bounds["accuracy"][0] < 0.9


def test_random_circuits_leave_out_what_any_of_them_leaves_undefined() -> None:
    nan = np.nan
    full = {"exact_match": np.ones(3), "kl": np.zeros(3)}
    one = {"exact_match": np.array([1.0, 0.0, 1.0]), "kl": np.array([1.0, 2.0, 3.0])}
    other = {"exact_match": np.array([0.0, 0.0, nan]), "kl": np.array([3.0, 6.0, nan])}
    found, together = summary_of_random([one, other], full)
    assert (found["n"], found["n_circuits"], found["n_undefined"]) == (3, 2, 1)
    assert together["kl"][:2].tolist() == [2.0, 4.0] and np.isnan(together["kl"][2])
    assert found["kl"] == 3.0
    # Their own means over the two prompts that both have are 1.5 and 4.5.
    assert found["kl_sd"] == pytest.approx(np.std([1.5, 4.5], ddof=1))
    assert found["intervals"]["kl"] == [2.0, 4.0]
