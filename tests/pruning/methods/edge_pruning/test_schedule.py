"""Schedules by hand."""

from __future__ import annotations

import pytest

from circuitgraph.errors import UnknownNameError
from pruning.methods.edge_pruning.schedule import rate_at, target_at


def test_linear_ramp() -> None:
    found = [target_at(s, target=0.9, ramp_steps=10, ramp="linear") for s in (0, 1, 5, 9, 10, 11, 1000)]
    assert found == pytest.approx([0, 0.09, 0.45, 0.81, 0.9, 0.9, 0.9])


def test_linear_ramp_from_a_start() -> None:
    found = [target_at(s, target=0.9, ramp_steps=4, ramp="linear", start=0.5) for s in range(5)]
    assert found == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])


def test_linear_ramp_to_a_target_above_one() -> None:
    found = [target_at(s, target=1.2, ramp_steps=6, ramp="linear") for s in (0, 3, 5, 6, 7)]
    assert found == pytest.approx([0, 0.6, 1.0, 1.2, 1.2])


def test_logarithmic_ramp_keeps_a_tenth_of_the_rest_every_so_often() -> None:
    found = [target_at(s, target=0.999, ramp_steps=3, ramp="logarithmic") for s in range(5)]
    assert found == pytest.approx([0, 0.9, 0.99, 0.999, 0.999])
    found = [target_at(s, target=0.999, ramp_steps=2, ramp="logarithmic", start=0.9) for s in range(3)]
    assert found == pytest.approx([0.9, 0.99, 0.999])


def test_logarithmic_ramp_to_a_target_above_one() -> None:
    found = [target_at(s, target=1.1, ramp_steps=3, ramp="logarithmic") for s in range(5)]
    assert found == pytest.approx([0, 0.9, 0.99, 1.1, 1.1])


def test_no_ramp() -> None:
    for ramp in ("linear", "logarithmic"):
        assert target_at(0, target=0.7, ramp_steps=0, ramp=ramp) == 0.7


def test_unknown_ramp() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'logarithmic'"):
        target_at(0, target=0.7, ramp_steps=10, ramp="logarithm")


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    found = [rate_at(s, steps=10, warmup_steps=4) for s in range(11)]
    assert found == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_the_rate_without_warm_up_or_with_nothing_else() -> None:
    assert [rate_at(s, steps=4, warmup_steps=0) for s in range(4)] == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])
    assert [rate_at(s, steps=2, warmup_steps=2) for s in range(3)] == pytest.approx([1 / 2, 1, 0])
