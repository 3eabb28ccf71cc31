"""CPR, CMD and the benchmark's AUROC: against figures worked out by hand, and the weights of its sizes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.rankings.mib import cpr_and_cmd, mib_auroc, normalised_faithfulness, with_faithfulness
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.sizes import MIB_SIZES, edges_of_sizes
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=2, n_heads=1, n_kv_heads=1)
# The trapezoidal rule over the benchmark's sizes as weights, from a derivation by hand: (x[i+1] - x[i-1]) / 2.
WEIGHTS = [0.0005, 0.0020, 0.0040, 0.0075, 0.0200, 0.0400, 0.0750, 0.2000, 0.4000, 0.2500]


def table_of(values, **columns) -> pd.DataFrame:
    return pd.DataFrame({"size": MIB_SIZES, "faithfulness": values, **columns})


def test_cpr_is_a_weighted_sum_of_the_ten_sizes() -> None:
    f = np.array([-0.2, 0.0, 0.1, 0.3, 0.5, 1.4, 1.8, 2.3, 1.2, 1.0])
    found = cpr_and_cmd(table_of(f))
    assert found["cpr"].item() == pytest.approx(float(np.dot(WEIGHTS, f)))
    assert found["cmd"].item() == pytest.approx(float(np.dot(WEIGHTS, np.abs(1 - f))))


def test_a_random_ranking_has_a_quarter() -> None:
    """Only the full model is faithful; the benchmark's own row for it."""
    found = cpr_and_cmd(table_of([0.0] * 9 + [1.0]))
    assert found["cpr"].item() == pytest.approx(0.25) and found["cmd"].item() == pytest.approx(0.749)


def test_rows_in_any_order_and_the_empty_circuit_do_not_matter() -> None:
    rows = table_of(np.linspace(0, 1, 10))
    empty = pd.DataFrame({"size": [0.0], "faithfulness": [0.0]})
    shuffled = pd.concat([rows, empty]).sample(frac=1, random_state=0)
    assert cpr_and_cmd(shuffled)["cpr"].item() == pytest.approx(cpr_and_cmd(rows)["cpr"].item())


def test_signed_and_absolute_rankings_are_kept_apart() -> None:
    both = pd.concat([table_of([1.0] * 10, order="signed"), table_of([0.0] * 9 + [1.0], order="size")])
    found = cpr_and_cmd(both, by="order").set_index("order")["cpr"]
    assert found["signed"] == pytest.approx(0.999) and found["size"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"size": [0.1, 0.1], "faithfulness": [0.0, 1.0]}), "each once"),
        (pd.DataFrame({"size": [0.1], "faithfulness": [0.0]}), "two sizes"),
        (pd.DataFrame({"size": [0.1, 1.0], "faithfulness": [np.nan, 1.0]}), "faithfulness"),
    ],
)
def test_tables_that_have_no_area_are_refused(table, words) -> None:
    with pytest.raises(ConfigurationError, match=words):
        cpr_and_cmd(table)


def test_rankings_over_other_sizes_are_refused() -> None:
    table = pd.DataFrame({"size": [0.1, 1, 0.2, 1], "faithfulness": [0, 1, 0, 1.0], "method": ["a", "a", "b", "b"]})
    with pytest.raises(ConfigurationError, match="cannot be compared"):
        cpr_and_cmd(table, by="method")
    with pytest.raises(UnknownNameError):
        cpr_and_cmd(table, by="nobody")


def test_faithfulness_is_a_ratio_of_means_between_empty_and_full() -> None:
    table = pd.DataFrame({"size": [0, 0.5, 1.0], "logit_diff": [-2.0, 1.0, 4.0], "method": "eap"})
    assert with_faithfulness(table, by="method")["faithfulness"].tolist() == [0.0, 0.5, 1.0]
    assert normalised_faithfulness(np.array([5.0]), empty=1.0, full=3.0).tolist() == [2.0]  # above the full model
    with pytest.raises(ConfigurationError, match="nothing to normalise"):
        normalised_faithfulness(1.0, empty=2.0, full=2.0)
    with pytest.raises(ConfigurationError, match="sizes 0"):
        with_faithfulness(table[table["size"] > 0])


def test_sizes_are_rounded_down() -> None:
    assert edges_of_sizes(32_491) == [32, 64, 162, 324, 649, 1624, 3249, 6498, 16245, 32491]
    assert edges_of_sizes(10, (0.0, 0.19, 0.999)) == [0, 1, 9]


def circuit_of(*edges: str) -> Circuit:
    return Circuit.from_edges(UNIVERSE, edges)


def test_the_benchmarks_auroc_has_no_corner_and_ends_at_the_last_point() -> None:
    truth = circuit_of("input->m0", "m0->logits")
    first = circuit_of("input->m0", "m0->logits")
    second = circuit_of("input->m0", "m0->logits", "input->logits")
    third = circuit_of("input->m1", "m1->logits", "input->logits")
    n_false = UNIVERSE.n_edges - 2
    # Points (false positive rate, recall) of second, first and third; the area between them over the last rate.
    points = sorted([(0.0, 1.0), (1 / n_false, 1.0), (3 / n_false, 0.0)])
    by_hand = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:], strict=False)) / points[-1][0]
    assert mib_auroc([first, second, third], truth) == pytest.approx(by_hand) == pytest.approx(2 / 3)
    with pytest.raises(ConfigurationError, match="give larger ones"):
        mib_auroc([first], truth)
    other = Circuit.from_edges(Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1), ["input->logits"])
    with pytest.raises(GraphMismatchError):
        mib_auroc([other], truth)
