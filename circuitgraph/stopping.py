"""How a run is asked to stop: Ctrl-C, and the signals that a cluster or a closed terminal sends.

1. `stopping` listens: SIGINT, SIGTERM and SIGHUP then all do what Ctrl-C does.
2. The first one ends the stage that runs, by `Stopped`, a `KeyboardInterrupt`. Within `Stop.held` it is only noted,
   so that what was computed can be kept; `Stop.open` marks the work inside that may be ended.
3. The second one ends everything at once, wherever it comes.
4. `Stop.limited` asks by the clock; that is never a second one.
5. Python drops what is raised while an object is deleted (`__del__`). A signal that comes just then is heard a moment
   later.

Signals reach Python's main thread alone. In another thread, and for signals that somebody else handles (or ignores,
as `nohup` does), nothing is changed; a `KeyboardInterrupt` that arrives is noted all the same.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask a run to stop; Windows has no SIGHUP."""
TIME_LIMIT = "the time limit"
"""What a run was stopped by when its time was up, in the place of a signal."""
_A_MOMENT = 0.05
"""Seconds."""


class Stopped(KeyboardInterrupt):
    """A signal ended the stage that ran.

    Attributes:
        name: The signal, such as SIGTERM.
    """

    def __init__(self, name: str = "SIGINT") -> None:
        super().__init__(name)
        self.name = name


class Stop:
    """Who asked a run to stop, and whether that may end what runs now.

    Attributes:
        names: The signals that came, in order.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._held = False
        self._listens = False
        self._time_is_up = False
        self._once_more = False
        self._later: threading.Timer | None = None

    @property
    def asked(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(self.names)

    @property
    def at_once(self) -> bool:
        """Whether it was asked twice, so that nothing more is to be done."""
        return len(self.names) > 1

    @property
    def name(self) -> str:
        """The first signal, or `TIME_LIMIT`; an empty text where none came."""
        return self.names[0] if self.names else ""

    def note(self, error: KeyboardInterrupt) -> None:
        """Take in an interruption that was caught; a signal that was heard here is noted already.

        Args:
            error: What was caught.

        Raises:
            KeyboardInterrupt: It was the second.
        """
        if not isinstance(error, Stopped):
            self.names.append("SIGINT")
        if self.at_once:
            raise error

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal.

        Args:
            number: The signal's.
            frame: Where it came.

        Raises:
            Stopped: Unless it is the first and has to wait.
        """
        if self._once_more:
            self._once_more = False
        elif self._time_is_up:
            self._time_is_up = False
            if self.asked:
                return
            self.names.append(TIME_LIMIT)
        else:
            self.names.append(signal.Signals(number).name)
        if self.at_once or not self._held:
            if _deletes(frame):
                self._hear_later(number)
                return
            raise Stopped(self.names[-1])

    def _hear_later(self, number: int) -> None:
        def ring() -> None:
            self._once_more = True
            _thread.interrupt_main(signal.Signals(number))

        self._later = threading.Timer(_A_MOMENT, ring)
        self._later.daemon = True
        self._later.start()

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Ask to stop when the time is up, as a signal does; unless somebody asked before.

        Where signals are not heard (another thread than the main one), work that runs is not ended: `asked` says so.

        Args:
            seconds: From now; None for no limit.
        """
        if seconds is None:
            yield
            return
        timer = threading.Timer(min(max(0.0, seconds), threading.TIMEOUT_MAX), self._end_by_the_clock)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end_by_the_clock(self) -> None:
        """Runs in the timer's thread; the main thread hears it as a signal."""
        if self.asked:
            return
        if not self._listens:
            self.names.append(TIME_LIMIT)
            return
        self._time_is_up = True
        _thread.interrupt_main(signal.SIGINT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no first signal end what is inside; it is noted in `asked`."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let a signal end what is inside.

        Raises:
            Stopped: One has come already, so that nothing is begun; or comes.
        """
        before = self._held
        if self.asked:
            raise Stopped(self.name)
        self._held = False
        try:
            if self.asked:  # between the two lines above
                raise Stopped(self.name)
            yield
        finally:
            self._held = before


_CURRENT: ContextVar[Stop | None] = ContextVar("stop", default=None)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let SIGINT, SIGTERM and SIGHUP do what Ctrl-C does, for as long as the block lasts.

    Inside another such block it is that one's.

    Yields:
        Who asked to stop.

    Examples:
        >>> import os, signal
        >>> with stopping() as stop:
        ...     with stop.held():
        ...         signal.raise_signal(signal.SIGTERM)
        ...         print("kept")
        kept
        >>> stop.name
        'SIGTERM'
    """
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    stop = Stop()
    before = _listen(stop)
    running = _CURRENT.set(stop)
    try:
        yield stop
    finally:
        if stop._later is not None:
            stop._later.cancel()
        _CURRENT.reset(running)
        for number, handler in before.items():
            signal.signal(number, handler)


def _deletes(frame: FrameType | None) -> bool:
    """Whether an object is being deleted, so that what is raised is dropped."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _listen(stop: Stop) -> dict[signal.Signals, Any]:
    """Handle the signals that nobody else handles; gives what to put back."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {}
    for number in [getattr(signal, name) for name in NAMES if hasattr(signal, name)]:
        current = signal.getsignal(number)
        if current in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = current
            signal.signal(number, stop.hear)
    stop._listens = signal.SIGINT in before
    return before


def exit_code(name: str) -> int:
    """The exit code of a command that a signal ended: 128 and the signal's number; 0 after the time limit.

    Args:
        name: The signal, or `TIME_LIMIT`; an empty text counts as Ctrl-C.

    Examples:
        >>> exit_code("SIGINT"), exit_code("SIGTERM"), exit_code(TIME_LIMIT)
        (130, 143, 0)
    """
    if name == TIME_LIMIT:
        return 0
    return 128 + int(getattr(signal, name or "SIGINT"))
