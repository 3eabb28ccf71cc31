"""The bar on a terminal, and what a step's record says."""

from __future__ import annotations

import io
import sys
import types

from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.progress import Calls, Progress, progress_for
from pruning.runs.shown_progress import VARIABLE, Reading, ShownProgress, counting, watching


def record(step: int, objective: float = 0.5) -> StepRecord:
    return StepRecord(
        step=step, seconds=step + 1.0, loss=1.0, objective=objective, sparsity=0.25, target=0.5, lambda1=0.0,
        lambda2=0.0, live_heads=7, live_mlps=3, undecided=11,
    )  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_objective_is_a_running_mean():
    reading = Reading("kl")
    reading(record(0, 1.0))
    assert reading(record(1, 2.0)) == "KL 1.500  sparsity 0.250 (target 0.500)  heads 7  MLPs 3"
    assert Reading("mse")(record(0)).startswith("mse 0.500")


def test_lines_count_down(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with watching(200, "kl") as show:
        for step in range(200):
            show(record(step))
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0].startswith("step 1/200") and lines[0].endswith("3:19 left")
    assert lines[-1].startswith("step 200/200") and lines[-1].endswith("0:00 left")


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(sys, "stderr", Terminal())
    terminal = sys.stderr
    with watching(4, "kl") as show:
        for step in range(4):
            show(record(step))
    assert "4/4" in terminal.getvalue()
    assert "heads 7" in terminal.getvalue()


class TestFromPython:
    """Somebody who looks is shown progress; everybody else is not."""

    def test_nothing_is_shown_where_nobody_looks(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        assert type(progress_for(None)) is Progress
        assert type(progress_for(True)) is ShownProgress

    def test_a_terminal_is_shown_it_unless_something_else_shows_it(self, monkeypatch):
        monkeypatch.delenv(VARIABLE, raising=False)
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert type(progress_for(None)) is ShownProgress
        assert type(progress_for(False)) is Progress
        own = progress_for(None, say=lambda line: None)
        assert type(own) is Calls and type(own._inner) is Progress
        monkeypatch.setenv(VARIABLE, "0")
        assert type(progress_for(None)) is Progress

    def test_a_users_functions_are_called_beside_it(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        steps, lines = [], []
        progress = progress_for(True, steps.append, lines.append)
        progress.say("begins")
        with progress.training(2, "kl") as watch:
            assert watch is not None
            watch(record(0))
            watch(record(1))
        assert (lines, [one.step for one in steps]) == (["begins"], [0, 1])
        assert sys.stderr.getvalue().startswith("begins\nstep 1/2  KL 0.500")

    def test_runs_are_counted_by_quarters(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with counting("evaluation") as tick:
            for done in range(1, 101):
                tick(done, 100)
        assert sys.stderr.getvalue().splitlines() == [f"evaluation: {n}/100" for n in (25, 50, 75, 100)]

    def test_a_notebook_has_one_line_that_changes(self, monkeypatch):
        shown: list[str] = []

        class Line:
            def update(self, data, raw):
                shown.append(data["text/plain"])

        class ZMQInteractiveShell:
            execution_count = 3

        ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        ipython.get_ipython = ZMQInteractiveShell
        display.display = lambda *_, **__: Line()
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        monkeypatch.delenv(VARIABLE, raising=False)
        progress = progress_for(None)
        assert type(progress) is ShownProgress
        progress.say("begins")
        with progress.training(200, "kl") as watch:
            assert watch is not None
            watch(record(0))
        with progress.counting("evaluation") as tick:
            assert tick is not None
            tick(1, 3)
        first = "step 1/200  KL 0.500  sparsity 0.250 (target 0.500)  heads 7  MLPs 3  3:19 left"
        assert shown == ["begins", first, "evaluation: 1/3"]
