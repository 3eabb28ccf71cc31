"""A leaderboard summed up: areas, orders and edges needed worked out by hand, and the page that shows them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.leaderboard import best_order, leaderboard_summary, times_edges, write_leaderboard
from circuitgraph.errors import ConfigurationError

SIZES = [0.0, 0.01, 0.1, 1.0]


def cells(method: str, kl: list[float], *, order: str = "signed", seed: int = 0) -> pd.DataFrame:
    accuracy = [0.0, 0.5, 0.75, 1.0]
    return pd.DataFrame(
        {
            "method": method, "task": "ioi", "seed": seed, "order": order, "size": SIZES,
            "n_edges": [0, 100, 1000, 10000], "kl": kl, "accuracy": accuracy,
        }
    )  # fmt: skip


TABLE = pd.concat(
    [
        cells("good", [2.0, 0.4, 0.2, 0.0]),
        cells("eap", [2.0, 1.5, 1.0, 0.0]),
        cells("eap", [2.0, 1.0, 0.4, 0.0], order="size"),
    ]
)
COSTS = pd.DataFrame(
    {"method": ["good", "eap"], "task": "ioi", "seed": 0, "seconds": [60.0, 2.0], "forward_passes": [600.0, 4.0]}
)


def test_means_over_the_logarithm_of_the_size_in_the_better_order() -> None:
    found = leaderboard_summary(TABLE, COSTS).set_index("method")
    assert found.loc["eap", "order"] == "size" and found.loc["good", "order"] == "signed"
    # From 1 to 10 % a decade, from 10 to 50 % another log10(5), where the line goes on towards 0 at 100 %.
    rest = math.log10(5)
    at_half = 0.2 * (1 - rest)
    by_hand = (0.3 + rest * (0.2 + at_half) / 2) / (1 + rest)
    assert found.loc["good", "kl_mean"] == pytest.approx(by_hand)
    assert (found.loc["good", "seconds"], found.loc["eap", "forward_passes"], found.loc["eap", "n_seeds"]) == (60, 4, 1)


def test_cpr_and_cmd_are_of_the_accuracy_where_there_is_no_logit_difference() -> None:
    found = leaderboard_summary(TABLE, COSTS).set_index("method")
    cpr = 0.09 * (0.5 + 0.75) / 2 + 0.9 * (0.75 + 1) / 2
    assert found.loc["good", "cpr"] == pytest.approx(cpr)
    assert found.loc["good", "cmd"] == pytest.approx(0.99 - cpr)  # never above the full model


def test_edges_needed_are_read_off_between_sizes() -> None:
    good, eap = TABLE[TABLE["method"] == "good"], TABLE[(TABLE["method"] == "eap") & (TABLE["order"] == "size")]
    # At 10 % the reference has 1,000 edges and KL 0.2, which eap reaches nowhere but at all edges.
    assert times_edges(eap, good, 0.1) == math.inf
    # At 1 % it has 100 edges and KL 0.4: eap needs 1,000.
    assert times_edges(eap, good, 0.01) == pytest.approx(10.0)
    assert times_edges(good, good, 0.01) == pytest.approx(1.0)
    # A KL of 0.7 lies half way between eap's 100 and 1,000 edges, on the logarithm.
    between = good.assign(kl=np.array([2.0, 0.7, 0.2, 0.0]))
    assert times_edges(eap, between, 0.01) == pytest.approx(math.sqrt(1000 * 100) / 100)


def test_a_reference_is_once_itself() -> None:
    found = leaderboard_summary(TABLE, COSTS, reference="good").set_index("method")
    assert found.loc["good", ["times_edges_97", "times_edges_98"]].tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(ConfigurationError, match="none of the methods: eap, good"):
        leaderboard_summary(TABLE, COSTS, reference="nobody")


def test_the_better_order_is_that_of_the_smaller_kl() -> None:
    assert best_order(TABLE[TABLE["method"] == "eap"]) == "size"


def test_the_page_shows_the_best_first_and_escapes(tmp_path) -> None:
    table = TABLE.assign(method=TABLE["method"].replace("eap", "a|b"))
    costs = COSTS.assign(method=COSTS["method"].replace("eap", "a|b"))
    page = write_leaderboard(tmp_path, table, costs, reference="good", command="circuitgraph leaderboard")
    text = page.read_text()
    assert text.index("| good |") < text.index("a\\|b") and "`circuitgraph leaderboard`" in text
    assert (tmp_path / "curves-ioi.png").stat().st_size > 1000
    assert pd.read_csv(tmp_path / "summary.csv")["method"].tolist() == ["good", "a|b"]
