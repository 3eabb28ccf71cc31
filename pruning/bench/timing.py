"""Times of several stages, turn by turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from pruning.bench.stages import Stage

WARM_UP = 2
"""Turns of every stage that are not counted."""


@dataclass(kw_only=True)
class Timings:
    """What the turns of one stage took.

    Attributes:
        seconds: A time a turn.
        undecided: Undecided gates a turn.
    """

    seconds: list[float] = field(default_factory=list)
    undecided: list[int] = field(default_factory=list)


def wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleaved(
    stages: Mapping[str, Stage],
    *,
    rounds: int,
    device: torch.device,
    warm_up: int = WARM_UP,
    watch: Callable[[str], None] = lambda said: None,
) -> dict[str, Timings]:
    """Time stages, each once a round.

    Args:
        stages: What is timed, by name.
        rounds: Rounds that count.
        device: Where it runs.
        warm_up: Rounds before them, not counted.
        watch: Told after every round.

    Returns:
        The times, by name.
    """
    timings = {name: Timings() for name in stages}
    for turn in range(warm_up + rounds):
        for name, stage in stages.items():
            stage.prepare(turn)
            wait(device)
            began = time.perf_counter()
            undecided = stage.run()
            wait(device)
            taken = time.perf_counter() - began
            if turn >= warm_up:
                timings[name].seconds.append(taken)
                timings[name].undecided.append(undecided)
        watch(f"round {turn + 1} of {warm_up + rounds}" + (" (warm-up)" if turn < warm_up else ""))
    return timings
