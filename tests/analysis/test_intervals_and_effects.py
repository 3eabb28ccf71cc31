"""Intervals as lines in figures, and effects as a table: by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from analysis import curves_figure, effects_table
from analysis.regimes.figures import regime_faithfulness_figure
from circuitgraph.errors import ConfigurationError


def lines(axes: Axes) -> list[list[list[float]]]:
    """Where the intervals' lines begin and end."""
    found = [one for one in axes.collections if isinstance(one, LineCollection)]
    return [np.asarray(segment).round(3).tolist() for one in found for segment in one.get_segments()]


def test_a_curve_has_its_intervals() -> None:
    table = pd.DataFrame({"sparsity": [0.5, 1.0], "kl": [1.0, 2.0], "kl_low": [0.5, 1.5], "kl_high": [1.25, 3.0]})
    assert lines(curves_figure(table).axes[0]) == [[[0.5, 0.5], [0.5, 1.25]], [[1.0, 1.5], [1.0, 3.0]]]
    assert lines(curves_figure(table[["sparsity", "kl"]]).axes[0]) == []


def test_each_seed_of_a_regime_has_its_interval_and_random_circuits_have_none() -> None:
    rows = [
        ("circuit", "ask", "0", 0.5, 0.25, 1.0),
        ("circuit", "ask", "1", 1.0, 0.75, 2.0),
        ("random", "ask", "0", 4.0, 3.0, 5.0),
    ]
    table = pd.DataFrame(rows, columns=["role", "of", "seed", "kl", "kl_low", "kl_high"]).assign(
        regime="ask", n_edges=3
    )
    figure = regime_faithfulness_figure(table)
    assert [[begin[0], end[0]] for begin, end in lines(figure.axes[0])] == [[0.25, 1.0], [0.75, 2.0]]
    assert "95 % intervals" in figure.get_supxlabel()
    without = regime_faithfulness_figure(table.drop(columns=["kl_low", "kl_high"]))
    assert lines(without.axes[0]) == [] and "intervals" not in without.get_supxlabel()


@pytest.mark.parametrize("measure", ["kl", "mse"])
def test_effects_are_a_table_with_the_largest_first(measure: str) -> None:
    def row(part: str, score: float | None, value: float, low: float | None = None) -> dict:
        change = {measure: value, "low": low, "high": None}
        return {"part": part, "score": score, "in_circuit": change, "in_full": {**change, measure: value / 2}}

    effects = {
        "split": "test", "measure": measure, "n": 4, "edges": [row("a0.h1->m0", 2.0, 0.5, 0.25)],
        "heads": [row("a0.h1", None, 1.0)], "mlps": [row("m0", None, -0.25)],
    }  # fmt: skip
    table = effects_table({"splits": {}, "effects": effects})
    assert table["part"].tolist() == ["a0.h1", "a0.h1->m0", "m0"] and table["kind"].tolist() == ["head", "edge", "mlp"]
    assert table["in_circuit"].tolist() == [1.0, 0.5, -0.25] and table["in_full"].tolist() == [0.5, 0.25, -0.125]
    assert table["in_circuit_low"].isna().tolist() == [True, False, True] and table["score"][1] == 2.0
    with pytest.raises(ConfigurationError, match="there are none"):
        effects_table({"splits": {}})
