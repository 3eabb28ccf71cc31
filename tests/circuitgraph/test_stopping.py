"""Signals: the first ends a stage or waits, the second ends everything, and afterwards all is as it was."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from circuitgraph.stopping import TIME_LIMIT, Stop, Stopped, exit_code, stopping

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_ends_the_stage_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as ended, stopping():
        signal.raise_signal(number)
    assert ended.value.name == number.name and isinstance(ended.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_an_object_is_deleted_is_heard_afterwards(number):
    """Python drops what is raised in `__del__`; libraries have such, and the garbage collector calls them anywhere."""

    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(number)

    with pytest.raises(Stopped) as ended, stopping() as stop:
        thing = Deleted()
        del thing
        for _ in range(100):
            time.sleep(0.05)
        pytest.fail("went on")
    assert ended.value.name == number.name and stop.names == [number.name]


def test_one_that_comes_too_late_to_be_heard_again():
    """What ended in the meantime is not ended afterwards."""

    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with stopping() as stop:
        thing = Deleted()
        del thing
    time.sleep(0.2)
    assert stop.names == ["SIGINT"]


def test_held_work_goes_on_and_nothing_is_begun_after():
    with stopping() as stop, stop.held():
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked and stop.name == "SIGTERM"
        with pytest.raises(Stopped), stop.open():
            pytest.fail("begun")


def test_open_work_inside_held_work_ends():
    with stopping() as stop, stop.held():
        with pytest.raises(Stopped), stop.open():
            signal.raise_signal(signal.SIGHUP)
        assert stop.names == ["SIGHUP"]


def test_the_second_ends_held_work():
    with pytest.raises(Stopped), stopping() as stop, stop.held():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")


def test_inside_another_block_it_is_that_ones():
    with stopping() as outer:
        with stopping() as inner, inner.held():
            signal.raise_signal(signal.SIGTERM)
        assert inner is outer and outer.asked


def test_what_somebody_else_handles_or_ignores_is_left_alone():
    """As `nohup` ignores SIGHUP, and a cluster's own library handles SIGTERM."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            assert not stop.asked
        assert came == [signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_in_another_thread_nothing_is_handled():
    handlers = []

    def look():
        with stopping():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]


def test_a_keyboard_interrupt_from_elsewhere_counts():
    stop = Stop()
    stop.note(KeyboardInterrupt())
    assert stop.name == "SIGINT"
    with pytest.raises(KeyboardInterrupt):
        stop.note(KeyboardInterrupt())


def test_exit_codes_are_those_of_a_shell():
    assert [exit_code(number.name) for number in SIGNALS] == [130, 143, 129]


# ---------------------------------------------------------------- the time limit


def wait_for(seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    pytest.fail("it was not ended")


def test_time_that_is_up_ends_the_stage_as_a_signal_does():
    with pytest.raises(Stopped) as ended, stopping() as stop, stop.limited(0.05):
        wait_for()
    assert ended.value.name == stop.name == TIME_LIMIT and exit_code(stop.name) == 0


def test_time_that_is_up_waits_for_held_work():
    with stopping() as stop, stop.held(), stop.limited(0.0):
        while not stop.asked:
            time.sleep(0.01)
        with pytest.raises(Stopped), stop.open():
            pytest.fail("begun")
    assert stop.names == [TIME_LIMIT]


def test_a_signal_after_it_is_the_second():
    with pytest.raises(Stopped) as ended, stopping() as stop, stop.held(), stop.limited(0.0):
        while not stop.asked:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.name == "SIGTERM"


def test_it_is_no_second_after_a_signal():
    with stopping() as stop, stop.held(), stop.limited(0.1):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert stop.names == ["SIGTERM"]


def test_no_limit_and_one_that_was_kept_ask_nothing():
    for seconds in (None, 0.05):
        with stopping() as stop:
            with stop.limited(seconds):
                pass
            time.sleep(0.1)
        assert not stop.asked


def test_where_signals_are_not_heard_it_is_asked_all_the_same():
    stops = []

    def look():
        with stopping() as stop, stop.limited(0.0):
            while not stop.asked:
                time.sleep(0.01)
            stops.append(stop)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert [stop.name for stop in stops] == [TIME_LIMIT]
