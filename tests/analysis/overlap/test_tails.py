"""Sampled p-values know when they are the smallest that the samples can give."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.overlap.tails import Tails


@pytest.mark.parametrize(
    ("observed", "alternative", "p", "at_floor"),
    [
        (9, "greater", 1 / 5, True),
        (2, "greater", 3 / 5, False),
        (0, "less", 1 / 5, True),
        (9, "two-sided", 2 / 5, True),
        (2, "two-sided", 1.0, False),
    ],
)
def test_the_floor_of_four_samples(observed: int, alternative: str, p: float, at_floor: bool) -> None:
    tails = Tails.of_samples(observed, np.array([1, 1, 2, 3]))
    assert tails.p(alternative) == pytest.approx(p)
    assert tails.at_floor(alternative) == at_floor


def test_a_computed_p_has_no_floor() -> None:
    tails = Tails(observed=3, expected=1.0, sd=1.0, log_at_least=-2000.0, log_at_most=0.0, log_equal=-2000.0)
    assert not tails.at_floor("greater")
