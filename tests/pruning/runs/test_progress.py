"""The bar on a terminal, and what a step's record says."""

from __future__ import annotations

import io
import sys

from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.shown_progress import Reading, watching


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
