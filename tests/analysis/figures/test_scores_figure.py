"""The figure of edge scores: its lines hold the sorted scores, and nothing that a logarithm cannot show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.figures.scores import scores_figure
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe

TOY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
VALUES = np.array([0.5, -4.0, 2.0, 0.0, 0.0, 1.0, -0.25, 0.125])


def scores(values: np.ndarray, universe: Universe = TOY) -> EdgeScores:
    return EdgeScores.of(universe, values, method="mine", direction="noising", estimates="a rank")


def test_sizes_by_rank() -> None:
    (panel,) = scores_figure(scores(VALUES)).axes
    (line,) = panel.get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6] and line.get_ydata().tolist() == [4, 2, 1, 0.5, 0.25, 0.125]
    assert (panel.get_xscale(), panel.get_yscale(), panel.get_legend()) == ("log", "log", None)


def test_signed_scores_keep_their_signs() -> None:
    (panel,) = scores_figure(scores(VALUES), signed=True).axes
    assert panel.get_lines()[0].get_ydata().tolist() == sorted(VALUES, reverse=True)
    assert panel.get_yscale() == "symlog" and panel.get_ylabel() == "score"


def test_several_are_scaled_and_named() -> None:
    figure = scores_figure({"one": scores(VALUES), "other": scores(VALUES * 100)})
    one, other = figure.axes[0].get_lines()
    np.testing.assert_allclose(one.get_ydata(), other.get_ydata())
    assert one.get_ydata()[0] == 1.0 and one.get_linestyle() != other.get_linestyle()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["one", "other"]


def test_large_ones_have_few_points_and_both_ends() -> None:
    large = replace(TOY, n_layers=12, n_heads=12, n_kv_heads=12)
    values = np.random.default_rng(0).normal(size=large.n_edges)
    for signed in (False, True):
        line = scores_figure(scores(values, large), signed=signed).axes[0].get_lines()[0]
        assert len(line.get_xdata()) < 900 and line.get_xdata()[[0, -1]].tolist() == [1, large.n_edges]
        right = sorted(values if signed else np.abs(values), reverse=True)
        np.testing.assert_array_equal(line.get_ydata(), np.array(right)[line.get_xdata() - 1])


def test_tiny_ones_do_not_flatten_the_others() -> None:
    assert scores_figure(scores(np.where(VALUES == 0.125, 1e-17, VALUES))).axes[0].get_ylim()[0] == pytest.approx(4e-6)
    assert scores_figure(scores(VALUES)).axes[0].get_ylim()[0] > 0.05


def test_nothing_to_draw() -> None:
    with pytest.raises(ConfigurationError, match="got none"):
        scores_figure({})
    with pytest.raises(ConfigurationError, match="'mine' are all 0"):
        scores_figure(scores(VALUES * 0))
