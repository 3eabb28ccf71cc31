"""Areas by hand and against scipy; Pareto fronts against a definition written as a double loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

from analysis import area_under_curves, pareto_front
from circuitgraph.errors import ConfigurationError, UnknownNameError


def curve(xs: list[float], ys: list[float], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"sparsity": xs, "kl": ys, **columns})


class TestArea:
    def test_trapezes_by_hand(self):
        # 0.5 wide, 0 to 1 high; 0.25 wide, 1 to 3 high.
        row = area_under_curves(curve([0.0, 0.75, 0.5], [0.0, 3.0, 1.0])).iloc[0]
        assert (row["low"], row["high"], row["n_points"]) == (0, 0.75, 3)
        assert row["area"] == pytest.approx(0.25 + 0.5) and row["mean"] == pytest.approx(1.0)

    def test_curves_are_compared_where_all_of_them_are(self):
        table = pd.concat(
            [curve([0.0, 1.0], [0.0, 1.0], method="a"), curve([0.5, 0.8], [2.0, 2.0], method="b")], ignore_index=True
        )
        found = area_under_curves(table, by="method").set_index("method")
        assert (found["low"] == 0.5).all() and (found["high"] == 0.8).all()
        assert found["mean"].tolist() == pytest.approx([0.65, 2.0])

    def test_any_curve_between_any_limits_against_quadrature(self):
        rng = np.random.default_rng(0)
        x, y = np.sort(rng.random(9)), rng.random(9)
        low, high = x[1] + 0.01, x[-2] - 0.01
        row = area_under_curves(curve(x.tolist(), y.tolist()), limits=(low, high)).iloc[0]
        area, _ = quad(lambda at: np.interp(at, x, y), low, high, points=x[2:-2].tolist(), limit=200)
        assert row["area"] == pytest.approx(area)

    def test_seeds_at_one_sparsity_are_averaged(self):
        row = area_under_curves(curve([0.0, 0.0, 1.0], [1.0, 3.0, 2.0])).iloc[0]
        assert row["n_points"] == 2 and row["mean"] == pytest.approx(2.0)

    @pytest.mark.parametrize(
        ("table", "options", "says"),
        [
            (curve([0.5], [1.0]), {}, "has one value of 'sparsity'"),
            (curve([0.5, 0.5], [1.0, 2.0], m="x"), {"by": "m"}, "curve of m x has one value"),
            (curve([0.1, 0.5], [1.0, 2.0]), {"limits": (0.0, 0.5)}, "covers 'sparsity' from 0.1 to 0.5.*extrapolated"),
            (curve([0.1, 0.5], [1.0, 2.0]), {"limits": (0.4, 0.2)}, "no range of 'sparsity'"),
            (
                curve([0.1, 0.2, 0.3, 0.4], [1.0] * 4, m=list("aabb")),
                {"by": ["m"]},
                "m a: 0.1 to 0.2; .*m b: 0.3 to 0.4",
            ),
            (curve([0.1, np.nan], [1.0, 2.0]), {}, "'sparsity', row 1: expected a finite number"),
            (curve([], []), {}, "the table is empty"),
        ],
    )
    def test_bad_input(self, table, options, says):
        with pytest.raises(ConfigurationError, match=says):
            area_under_curves(table, **options)

    def test_unknown_columns(self):
        with pytest.raises(UnknownNameError, match="unknown column 'accuracy'"):
            area_under_curves(curve([0, 1], [0, 1]), y="accuracy")


class TestParetoFront:
    def test_against_the_definition(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(
            {
                "sparsity": rng.integers(0, 6, 60) / 6,
                "kl": rng.integers(0, 6, 60) / 6,
                "task": rng.choice(["x", "y"], 60),
            }
        )
        found = pareto_front(table, maximise="sparsity", minimise="kl", by="task")
        wanted = []
        for one in table.itertuples():
            beaten = any(
                other.task == one.task
                and other.sparsity >= one.sparsity
                and other.kl <= one.kl
                and (other.sparsity > one.sparsity or other.kl < one.kl)
                for other in table.itertuples()
            )
            wanted.append(not beaten)
        assert found["on_front"].tolist() == wanted and 2 <= sum(wanted) < 60
        assert found["on_front"].dtype == bool and "on_front" not in table

    def test_equal_rows_do_not_beat_each_other(self):
        table = pd.DataFrame({"kl": [1.0, 1.0, 2.0]}, index=[5, 5, 3])
        found = pareto_front(table, minimise="kl")
        assert found["on_front"].tolist() == [True, True, False] and found.index.tolist() == [5, 5, 3]

    def test_bad_input(self):
        table = pd.DataFrame({"kl": [1.0, np.inf]})
        with pytest.raises(ConfigurationError, match="maximise= or in minimise="):
            pareto_front(table)
        with pytest.raises(ConfigurationError, match="row 1: expected a finite number; got inf"):
            pareto_front(table, minimise="kl")
        with pytest.raises(UnknownNameError, match="did you mean 'kl'"):
            pareto_front(table, minimise="k1")
