"""How far a run is, for people: a live bar on a terminal, a line that changes in a notebook, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pruning.runs.progress import Progress, Tick, Watch

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from pruning.methods.edge_pruning.state import StepRecord

VARIABLE = "CIRCUITGRAPH_PROGRESS"
"""Set to 0, nothing is shown by itself."""
_MEAN_OF = 50
_LINES = 20
_QUARTERS = 4


class ShownProgress(Progress):
    """Shows each stage on standard error, or in the notebook that runs it."""

    def say(self, line: str) -> None:
        """Write the line."""
        note = _note()
        if note is not None:
            note(line)
        else:
            _say(line)

    def training(self, steps: int, objective: str) -> AbstractContextManager[Watch]:
        """Show how far the steps are."""
        return watching(steps, objective)

    def counting(self, stage: str) -> AbstractContextManager[Tick]:
        """Show how many runs are done."""
        return counting(stage)


def somebody_looks() -> bool:
    """Whether this is a notebook, or standard error a terminal, and nobody has asked for silence."""
    if os.environ.get(VARIABLE, "").strip().lower() in ("0", "false", "no", "off"):
        return False
    return _in_notebook() or sys.stderr.isatty()


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
        figure = f"{mean:.3f}" if abs(mean) >= 0.001 or mean == 0 else f"{mean:.1e}"
        return (
            f"{self._label} {figure}  sparsity {record.sparsity:.3f} (target {record.target:.3f})  "
            f"heads {record.live_heads}  MLPs {record.live_mlps}"
        )


@contextlib.contextmanager
def watching(steps: int, objective: str) -> Iterator[Watch]:
    """Show the progress of a training.

    Args:
        steps: How many steps it takes.
        objective: What is minimised, by name.

    Yields:
        What to call after each step.
    """
    reading, note = Reading(objective), _note()
    if note is not None:

        def change(record: StepRecord) -> None:
            done = record.step + 1
            left = record.seconds / done * (steps - done)
            note(f"step {done:,}/{steps:,}  {reading(record)}  {_time(left)} left")

        yield change
        return
    if not sys.stderr.isatty():
        yield _lines(steps, reading)
        return
    with _bar() as progress:
        task = progress.add_task("step", total=steps, reading="")

        def show(record: StepRecord) -> None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                progress.update(task, completed=record.step + 1, reading=reading(record))

        yield show


@contextlib.contextmanager
def counting(what: str) -> Iterator[Tick]:
    """Show how many of something are done.

    Args:
        what: The stage whose runs are counted.

    Yields:
        What to call with how many are done, and of how many.
    """
    note = _note()
    if note is not None or not sys.stderr.isatty():
        said, write = 0, note or _say

        def tell(done: int, of: int) -> None:
            nonlocal said
            if note is not None or done * _QUARTERS // of > said:
                said = done * _QUARTERS // of
                write(f"{what}: {done:,}/{of:,}")

        yield tell
        return
    with _bar() as progress:
        task = progress.add_task(what, total=None, reading="")

        def show(done: int, of: int) -> None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                progress.update(task, completed=done, total=of)

        yield show


def _say(line: str) -> None:
    """Write a line; where nobody can read it any more, the work goes on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _bar() -> RichProgress:
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
            _say(f"step {done:,}/{steps:,}  {words}  {_time(left)} left")

    return show


def _time(seconds: float) -> str:
    """Minutes and seconds.

    Examples:
        >>> _time(75.4)
        '1:15'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


# -------------------------------------------------------------------- notebooks


def _in_notebook() -> bool:
    """Whether the code runs in a notebook's kernel."""
    if "IPython" not in sys.modules:
        return False
    shell: Any = sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _note() -> Callable[[str], None] | None:
    """What changes the one line that a notebook's cell shows; None elsewhere."""
    if not _in_notebook():
        return None
    from IPython.display import display  # type: ignore[import-not-found]

    cell = sys.modules["IPython"].get_ipython().execution_count
    if _SHOWN.get("cell") != cell:
        _SHOWN.update(cell=cell, line=display({"text/plain": ""}, raw=True, display_id=True))
    line: Any = _SHOWN["line"]
    return lambda text: line.update({"text/plain": text}, raw=True)


_SHOWN: dict[str, Any] = {}
"""The line that is shown, and in which cell."""
