"""The figure of a training run: what it draws, from whole and from poor curves."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

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
