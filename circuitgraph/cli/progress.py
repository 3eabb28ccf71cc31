"""How far a training run is: a live bar on a terminal, a line every twentieth of the way elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from circuitgraph.cli.output import figure, say

if TYPE_CHECKING:
    from rich.progress import Progress

    from pruning.methods.edge_pruning.state import StepRecord

Tick = Callable[[int, int], None]
"""Called with how many are done, and of how many."""
_MEAN_OF = 50
_LINES = 20


class Reading:
    """What a step's record says in a few words.

    Args:
        objective: What is minimised, by name; its mean over the last steps is shown.
    """

    def __init__(self, objective: str) -> None:
        self._label = "KL" if objective == "kl" else objective
        self._recent: deque[float] = deque(maxlen=_MEAN_OF)

    def __call__(self, record: StepRecord) -> str:
        """Take a step in and put it into words."""
        self._recent.append(record.objective)
        mean = sum(self._recent) / len(self._recent)
        return (
            f"{self._label} {figure(mean)}  sparsity {record.sparsity:.3f} (target {record.target:.3f})  "
            f"heads {record.live_heads}  MLPs {record.live_mlps}"
        )


@contextlib.contextmanager
def watching(steps: int, objective: str) -> Iterator[Callable[[StepRecord], None]]:
    """Show the progress of a run on standard error.

    Args:
        steps: How many steps the run takes.
        objective: What is minimised, by name.

    Yields:
        What to call after each step.
    """
    if not sys.stderr.isatty():
        yield _lines(steps, Reading(objective))
        return
    with _bar() as progress:
        task = progress.add_task("step", total=steps, reading="")
        reading = Reading(objective)

        def show(record: StepRecord) -> None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                progress.update(task, completed=record.step + 1, reading=reading(record))

        yield show


@contextlib.contextmanager
def following(
    steps: int, objective: str
) -> Iterator[tuple[Callable[[StepRecord], None], Callable[[str], AbstractContextManager[Tick]]]]:
    """Show how far a run is, its training and what comes after that, on standard error; one bar at a time.

    Args:
        steps: How many steps the training takes.
        objective: What is minimised, by name.

    Yields:
        What to call after each step, and what to open, with its name, for a later stage, see `counting`.
    """
    with contextlib.ExitStack() as training:
        watch = training.enter_context(watching(steps, objective))

        @contextlib.contextmanager
        def later(what: str) -> Iterator[Tick]:
            training.close()
            with counting(what) as tick:
                yield tick

        yield watch, later


@contextlib.contextmanager
def counting(what: str) -> Iterator[Tick]:
    """Show on standard error how many of something are done.

    Args:
        what: The stage whose runs are counted.

    Yields:
        What to call with how many are done, and of how many.
    """
    if not sys.stderr.isatty():
        said = 0

        def tell(done: int, of: int) -> None:
            nonlocal said
            if done * 4 // of > said:
                said = done * 4 // of
                say(f"{what}: {done:,}/{of:,}")

        yield tell
        return
    with _bar() as progress:
        task = progress.add_task(what, total=None, reading="")

        def show(done: int, of: int) -> None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                progress.update(task, completed=done, total=of)

        yield show


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[reading]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


def _lines(steps: int, reading: Reading) -> Callable[[StepRecord], None]:
    """A line after the first step, then after every twentieth of them, and after the last."""
    said = -1

    def show(record: StepRecord) -> None:
        nonlocal said
        done, words = record.step + 1, reading(record)
        part = done * _LINES // steps
        if part > said or done == steps:
            said = part
            left = record.seconds / done * (steps - done)
            say(f"step {done:,}/{steps:,}  {words}  {_time(left)} left")

    return show


def _time(seconds: float) -> str:
    """Minutes and seconds.

    Examples:
        >>> _time(75.4)
        '1:15'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
