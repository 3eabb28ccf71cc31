"""Times: stages in turn, warm-up left out, medians, ratios to plain."""

from __future__ import annotations

import time

import pytest
import torch

from pruning.bench.memory import Measured
from pruning.bench.report import figures
from pruning.bench.timing import Timings, interleaved

CPU = torch.device("cpu")


class Clock:
    """A clock that only stages move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A stage that takes a known time, and moves the clock while it prepares too."""

    def __init__(self, name: str, clock: Clock, seconds: list[float], log: list[str]) -> None:
        self.name, self.clock, self.seconds, self.log = name, clock, seconds, log
        self.turn = -1

    def prepare(self, turn: int) -> None:
        self.turn = turn
        self.clock.now += 50.0
        self.log.append(f"{self.name} {turn}")

    def run(self) -> int:
        self.clock.now += self.seconds[self.turn]
        return 10 * self.turn


def test_stages_take_turns_and_only_their_runs_are_timed(monkeypatch):
    clock, log, said = Clock(), [], []
    monkeypatch.setattr(time, "perf_counter", clock)
    stages = {name: Fake(name, clock, [9.0, 8.0, 1.0, 4.0, 2.0], log) for name in ("plain", "start")}
    found = interleaved(stages, rounds=3, device=CPU, warm_up=2, watch=said.append)
    assert log == [f"{name} {turn}" for turn in range(5) for name in ("plain", "start")]
    assert found["plain"].seconds == [1.0, 4.0, 2.0] and found["plain"].undecided == [20, 30, 40]
    assert said[0] == "round 1 of 5 (warm-up)" and said[-1] == "round 5 of 5"


def test_ratios_are_of_medians():
    """Medians 2, 3 and 1: the ratio of the means would be 12.5 / 4."""
    timings = {
        "plain": Timings(seconds=[1.0, 2.0, 9.0], undecided=[0, 0, 0]),
        "start": Timings(seconds=[3.0, 2.5, 32.0], undecided=[5, 9, 7]),
        "evaluate_98": Timings(seconds=[1.0, 1.0, 0.5], undecided=[0, 0, 0]),
    }
    memory = {"plain": Measured(peak_bytes=200), "start": Measured(peak_bytes=300)}
    found = figures(timings, memory)
    assert found["plain"].to_dict() == {
        "seconds": 2.0, "ratio": 1.0, "peak_bytes": 200, "memory_ratio": 1.0, "undecided": 0,
    }  # fmt: skip
    assert found["start"].to_dict() == {
        "seconds": 3.0, "ratio": 1.5, "peak_bytes": 300, "memory_ratio": 1.5, "undecided": 7,
    }  # fmt: skip
    assert (found["evaluate_98"].ratio, found["evaluate_98"].peak_bytes) == (0.5, None)
    assert found["evaluate_98"].memory_ratio is None


@pytest.mark.parametrize("memory", [{}, {"plain": Measured(problem="killed"), "start": Measured(peak_bytes=3)}])
def test_without_the_plain_models_memory_there_is_no_ratio(memory):
    timings = {name: Timings(seconds=[1.0], undecided=[0]) for name in ("plain", "start")}
    found = figures(timings, memory)
    assert found["start"].memory_ratio is None and found["plain"].memory_ratio is None
