"""Signals: the first ends a stage or waits, the second ends everything, and afterwards all is as it was."""

from __future__ import annotations

import signal
import threading

import pytest

from circuitgraph.stopping import Stop, Stopped, exit_code, stopping

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_ends_the_stage_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as ended, stopping():
        signal.raise_signal(number)
    assert ended.value.name == number.name and isinstance(ended.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


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
