"""The figure of a training run: what it draws, from whole and from poor curves."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.figures.style import figure_bytes
from analysis.figures.training import training_figure
from circuitgraph.errors import ConfigurationError
from tests.analysis.test_report import curve


def lines(frame: pd.DataFrame) -> list[list[np.ndarray]]:
    return [[np.asarray(line.get_ydata()) for line in axes.lines] for axes in training_figure(frame).axes]


def test_every_column_is_a_line() -> None:
    frame = curve()
    objective, sparsity, counts = lines(frame)
    np.testing.assert_array_equal(objective[0], frame["kl"])
    middle = frame["kl"].iloc[97:104].median()
    assert objective[1][100] == middle
    np.testing.assert_allclose(sparsity[0], 100 * frame["sparsity"])
    np.testing.assert_allclose(sparsity[1], 100 * frame["target"])
    for drawn, name in zip(counts, ["live_heads", "live_mlps", "undecided"], strict=True):
        np.testing.assert_array_equal(drawn, frame[name])


def test_columns_that_are_missing_are_left_out() -> None:
    frame = curve().drop(columns=["kl", "target", "live_heads", "live_mlps", "undecided"])
    objective, sparsity = lines(frame)
    np.testing.assert_array_equal(objective[0], frame["loss"])
    assert len(sparsity) == 1


def test_one_step_and_missing_values() -> None:
    frame = curve(5)
    frame.loc[2:, "kl"] = np.nan
    frame["undecided"] = np.nan
    objective, _, counts = lines(frame)
    np.testing.assert_array_equal(objective[0], frame["kl"])
    assert len(counts) == 2
    assert lines(curve(1))[0][0].size == 1


def test_matplotlib_stays_as_it_was() -> None:
    before = dict(mpl.rcParams)
    training_figure(curve())
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("frame", [curve(0), curve().drop(columns=["sparsity"]), curve().drop(columns=["kl", "loss"])])
def test_curves_that_cannot_be_drawn_say_what_is_needed(frame: pd.DataFrame) -> None:
    with pytest.raises(ConfigurationError, match="needs at least one row and the columns step, sparsity and kl"):
        training_figure(frame)


def test_the_objective_has_its_name_and_unit_and_the_finished_circuit_its_lines() -> None:
    frame = curve().drop(columns=["kl"]).assign(objective=curve()["kl"])
    panel = training_figure(frame, objective="kl", evaluated={"validation": 0.25, "test": 0.5}).axes[0]
    assert panel.get_ylabel() == "KL (nats)"
    assert [np.asarray(line.get_ydata())[0] for line in panel.lines[-2:]] == [0.25, 0.5]
    legend = panel.get_legend()
    assert legend is not None
    told = [text.get_text() for text in legend.get_texts()]
    assert told[-2:] == ["finished circuit, validation", "finished circuit, test"]
    assert training_figure(frame, objective="mse").axes[0].get_ylabel() == "mean squared error"


HOSTILE: dict[Any, Any] = {
    "text.usetex": True, "figure.facecolor": "black", "axes.facecolor": "black", "text.color": "white", "font.size": 40,
    "savefig.facecolor": "black", "axes.prop_cycle": "cycler('color', ['ff0000'])", "lines.linewidth": 20,
}  # fmt: skip


def test_the_users_matplotlibrc_changes_nothing() -> None:
    plain = figure_bytes(training_figure(curve()), "png")
    with mpl.rc_context(HOSTILE):
        assert figure_bytes(training_figure(curve()), "png") == plain
        assert mpl.rcParams["text.usetex"]


def test_an_unknown_backend_is_not_needed() -> None:
    code = "import analysis.figures.style, os; assert os.environ['MPLBACKEND'] == 'nosuch'"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"MPLBACKEND": "nosuch"}, check=True)
