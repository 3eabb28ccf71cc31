"""Measures over the number of edges: a panel per measure, both axes logarithmic where that can be, lines told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.figures.front import front_figure
from circuitgraph.errors import ConfigurationError, UnknownNameError

SEEDS = pd.DataFrame(
    {
        "seed": [0, 1, 0, 1],
        "sparsity": [0.9, 0.9, 0.99, 0.99],
        "n_edges": [700, 720, 70, 68],
        "kl": [0.1, 0.3, 0.4, 0.6],
        "exact_match": [0.9, 0.8, 0.5, 0.7],
    }
)


def test_a_panel_per_measure_with_edges_along_it() -> None:
    panels = front_figure(SEEDS[SEEDS["seed"] == 0]).axes
    assert [panel.get_ylabel() for panel in panels] == ["KL (nats)", "exact match (%)"]
    assert [panel.get_xscale() for panel in panels] == ["log", "log"]
    assert [panel.get_yscale() for panel in panels] == ["log", "linear"]
    (line,) = panels[1].get_lines()
    assert sorted(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [(70, 50), (700, 90)]


def test_over_few_powers_of_ten_the_ticks_do_not_run_into_each_other() -> None:
    """Below a factor of ten, numbers stand at 1, 2 and 5 times a power alone, and both axes write them alike."""
    narrow = pd.DataFrame({"n_edges": [500, 1000, 3000], "kl": [2.4, 1.1, 0.4], "accuracy": [0.5, 0.8, 0.9]})
    figure = front_figure(narrow)
    figure.canvas.draw()
    for axis, expected in (
        (figure.axes[0].xaxis, {"500", "1,000", "2,000"}),
        (figure.axes[0].yaxis, {"0.5", "1", "2"}),
    ):
        labels = [*axis.get_majorticklabels(), *axis.get_minorticklabels()]
        low, high = axis.get_view_interval()
        place = 0 if axis.axis_name == "x" else 1
        assert {label.get_text() for label in labels if low <= label.get_position()[place] <= high} == expected
    wide = front_figure(SEEDS.assign(n_edges=[700, 720, 60, 58])).axes[0].xaxis
    assert {label.get_text() for label in wide.get_minorticklabels()} <= {""}


def test_seeds_at_one_sparsity_are_averaged_and_banded() -> None:
    panel = front_figure(SEEDS).axes[0]
    (line,) = panel.get_lines()
    found = sorted(zip(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), strict=True))
    assert [value for pair in found for value in pair] == pytest.approx([69, 0.5, 710, 0.2])
    (band,) = panel.collections
    assert band.get_datalim(panel.transData).y0 == pytest.approx(0.1)


def test_lines_are_told_apart_and_intervals_drawn() -> None:
    table = SEEDS.assign(kl_low=SEEDS["kl"] - 0.05, kl_high=SEEDS["kl"] + 0.05)
    panel = front_figure(table, by="seed").axes[0]
    assert len(panel.get_lines()) == 2 and len(panel.collections) == 2
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["0", "1"]


@pytest.mark.parametrize(("more", "where"), [({}, 0), ({"accuracy": [0.9, 0.8, 0.5, 0.7]}, 3)])
def test_one_legend_for_all_panels_where_no_panel_is(more: dict[str, list[float]], where: int) -> None:
    places = front_figure(SEEDS.assign(**more), by="seed").axes
    assert [place for place, axes in enumerate(places) if axes.get_legend() is not None] == [where]
    names = places[where].get_legend().get_texts()
    assert [text.get_text() for text in names] == ["0", "1"]


def test_a_legend_too_high_for_one_column_takes_more() -> None:
    table = pd.concat([SEEDS.assign(accuracy=0.5, seed=seed) for seed in range(24)])
    axes = front_figure(table, by="seed").axes[3]
    assert axes.get_legend().get_window_extent().height <= axes.bbox.height


def test_a_measure_of_0_stays_on_a_linear_axis() -> None:
    assert front_figure(SEEDS.assign(kl=[0.0, 0.1, 0.2, 0.3])).axes[0].get_yscale() == "linear"


def test_tables_without_measures_or_columns_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a column of kl"):
        front_figure(SEEDS[["n_edges", "sparsity"]])
    with pytest.raises(UnknownNameError):
        front_figure(SEEDS, by="method")
