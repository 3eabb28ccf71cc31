"""How a run tells what it does: one object instead of a callable for each thing. Alone it is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from circuitgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from pruning.methods.edge_pruning.state import StepRecord

Watch = Callable[["StepRecord"], None]
"""Called after every step of training."""
Tick = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


class Progress:
    """Tells nobody anything. Subclasses override what they show."""

    def say(self, line: str) -> None:
        """Tell what begins, or what is doubtful.

        Args:
            line: A line of text.
        """

    def training(self, steps: int, objective: str) -> AbstractContextManager[Watch | None]:
        """Training is about to begin.

        Args:
            steps: How many steps it takes.
            objective: What is minimised, by name.

        Returns:
            A context for as long as it lasts, that gives what to call after every step, or None.
        """
        del steps, objective
        return nullcontext()

    def counting(self, stage: str) -> AbstractContextManager[Tick | None]:
        """A stage whose runs are counted is about to begin.

        Args:
            stage: Its name.

        Returns:
            A context for as long as it lasts, that gives what to call with the runs done and with all, or None.
        """
        del stage
        return nullcontext()


class Calls(Progress):
    """Calls a user's functions, beside what another progress shows.

    Args:
        inner: The other one.
        watch: Called after every step.
        say: Called with every line.
    """

    def __init__(self, inner: Progress, watch: Watch | None = None, say: Callable[[str], None] | None = None) -> None:
        self._inner, self._watch, self._say = inner, watch, say

    def say(self, line: str) -> None:
        """Tell both."""
        self._inner.say(line)
        if self._say is not None:
            self._say(line)

    @contextmanager
    def training(self, steps: int, objective: str) -> Iterator[Watch | None]:
        """Both are called after every step."""
        with self._inner.training(steps, objective) as shown:
            calls = [watch for watch in (shown, self._watch) if watch is not None]

            def watch(record: StepRecord) -> None:
                for call in calls:
                    call(record)

            yield watch if calls else None

    def counting(self, stage: str) -> AbstractContextManager[Tick | None]:
        """As the other one."""
        return self._inner.counting(stage)


def progress_for(
    asked: Progress | bool | None, watch: Watch | None = None, say: Callable[[str], None] | None = None
) -> Progress:
    """The progress of a run from Python.

    Args:
        asked: One to use; True shows it in any case, False shows nothing; None shows it in a notebook and on a
            terminal, unless `watch` or `say` are given.
        watch: Called after every step.
        say: Called with every line.

    Raises:
        ConfigurationError: It is none of these.
    """
    from pruning.runs.shown_progress import ShownProgress, somebody_looks

    if not (asked is None or isinstance(asked, bool | Progress)):
        raise ConfigurationError(f"progress must be True, False, None or a pruning.Progress; got {asked!r}")
    for name, given in (("watch", watch), ("say", say)):
        if not (given is None or callable(given)):
            raise ConfigurationError(f"{name} must be a function; got {given!r}")
    if isinstance(asked, Progress):
        inner = asked
    else:
        shown = asked if asked is not None else (watch is None and say is None and somebody_looks())
        inner = ShownProgress() if shown else Progress()
    return inner if watch is None and say is None else Calls(inner, watch, say)
