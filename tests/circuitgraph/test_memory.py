"""The memory plan: which way of running a batch is taken, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuitgraph.errors import ConfigurationError
from circuitgraph.memory import MemoryEstimate, MemoryPlan, available_bytes, plan_memory

NOTHING = MemoryEstimate(**dict.fromkeys(MemoryEstimate.__dataclass_fields__, 0))


def estimate(prompts: int, recompute: bool) -> MemoryEstimate:
    """100 bytes of weights, and 10 a prompt, or 6 where MLPs are run again."""
    return replace(NOTHING, weights=100, activations=prompts * (6 if recompute else 10))


def decided(limit: int | None, *, batch_size: int = 16, seq: int = 200, **given) -> tuple[int, int, bool, bool]:
    plan = plan_memory(estimate, batch_size=batch_size, seq=seq, limit_bytes=limit, **given)
    return plan.micro_batch, plan.accumulation, plan.recompute, plan.fits


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, (16, 1, False, True)),
        (260, (16, 1, False, True)),
        (259, (8, 2, False, True)),  # 180: half a batch, before MLPs are run again at 196
        (179, (4, 4, False, True)),  # 140: still 800 tokens at once
        (139, (4, 4, True, True)),  # 124: the next half would be below 512 tokens
        (123, (2, 8, False, True)),
        (107, (1, 16, True, True)),
        (99, (1, 16, True, False)),
    ],
)
def test_halves_while_large_then_runs_mlps_again(limit: int | None, expected: tuple[int, int, bool, bool]) -> None:
    assert decided(limit) == expected


def test_a_batch_that_halves_do_not_divide() -> None:
    assert decided(155, batch_size=10) == (5, 2, False, True)
    assert decided(135, batch_size=10) == (3, 4, False, True)


def test_what_the_user_decided_stays() -> None:
    assert decided(None, micro_batch=3) == (3, 6, False, True)
    assert decided(200, recompute=True) == (16, 1, True, True)
    assert decided(130, recompute=False) == (2, 8, False, True)
    with pytest.raises(ConfigurationError, match="at least 1 prompt; got 0"):
        decided(None, micro_batch=0)


def test_a_plan_says_what_it_is() -> None:
    plan = MemoryPlan(estimate=estimate(2, False), micro_batch=2, accumulation=8, recompute=False, limit_bytes=123)
    found = plan.to_dict()
    assert (found["total"], found["micro_batch"], found["accumulation"], found["fits"]) == (120, 2, 8, True)


def test_free_memory_is_told_or_unknown() -> None:
    free = available_bytes()
    assert free is None or free > 1 << 20
