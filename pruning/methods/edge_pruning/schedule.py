"""Schedules: the sparsity asked for at each step, and the learning rate."""

from __future__ import annotations

import math

from circuitgraph.errors import UnknownNameError

RAMPS = ("linear", "logarithmic")


def target_at(step: int, *, target: float, ramp_steps: int, ramp: str, start: float = 0.0) -> float:
    """The sparsity asked for at a step.

    Args:
        step: The step, from 0.
        target: Where the ramp ends.
        ramp_steps: After how many steps.
        ramp: `linear`, or `logarithmic`: the *kept* share falls by the same factor every step, so that the
            steps are spent where circuits are small. Targets of 1 and above end at a kept share of 0.001
            and then go on to the target at once.
        start: Where it begins.

    Returns:
        The sparsity.

    Raises:
        UnknownNameError: No such ramp.

    Examples:
        >>> target_at(50, target=0.9, ramp_steps=100, ramp="linear")
        0.45
        >>> round(target_at(50, target=0.99, ramp_steps=100, ramp="logarithmic"), 6)
        0.9
    """
    if ramp not in RAMPS:
        raise UnknownNameError.of("ramp", ramp, RAMPS)
    if step >= ramp_steps:
        return target
    share = step / ramp_steps
    if ramp == "linear":
        return start + (target - start) * share
    last = max(1 - target, 1e-3)
    return 1 - math.exp(math.log(1 - start) + (math.log(last) - math.log(1 - start)) * share)


def rate_at(step: int, *, steps: int, warmup_steps: int) -> float:
    """Factor on the learning rate: linear warm-up, then linear decay to 0.

    Args:
        step: The step, from 0.
        steps: All of them.
        warmup_steps: Those of the warm-up.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))
