"""Scores made of scores, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuitgraph.circuits.combined_scores import combine_scores
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe

TOY = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
# into q, k, v: one edge each; into m0: input, a0.h0; into the logits: input, a0.h0, m0
ONE = np.array([4.0, 0.0, -2.0, 1.0, 3.0, -8.0, 1.0, 1.0])
OTHER = np.array([-1.0, 1.0, 1.0, 0.0, 0.0, 2.0, 0.0, 4.0])


def scores(values: np.ndarray, **changes: object) -> EdgeScores:
    about = {"method": "a", "direction": "noising", "estimates": "a rise", "provenance": {"model": "toy", "seed": 0}}
    return EdgeScores.of(TOY, values, **{**about, **changes})


SCALED = {
    "none": [4, 0, -2, 1, 3, -8, 1, 1],
    "largest": [0.5, 0, -0.25, 0.125, 0.375, -1, 0.125, 0.125],
    "total": [0.2, 0, -0.1, 0.05, 0.15, -0.4, 0.05, 0.05],
    "incoming": [1, 0, -1, 0.25, 0.75, -0.8, 0.1, 0.1],
    "rank": [6 / 7, 0, -4 / 7, 2 / 7, 5 / 7, -1, 2 / 7, 2 / 7],
}


@pytest.mark.parametrize("scale", sorted(SCALED))
def test_scales(scale: str) -> None:
    np.testing.assert_allclose(combine_scores([scores(ONE)], scale=scale).values, SCALED[scale], rtol=1e-14)
    np.testing.assert_array_equal(combine_scores([scores(ONE * 0)], scale=scale).values, np.zeros(8))


def test_ways() -> None:
    both = [scores(ONE), scores(OTHER)]
    ways = {"mean": (ONE + OTHER) / 2, "min": np.minimum(ONE, OTHER), "max": np.maximum(ONE, OTHER)}
    for how, right in ways.items():
        np.testing.assert_allclose(combine_scores(both, how=how, scale="none").values, right)
    weighted = combine_scores(both, weights=[3, 1], scale="none")
    np.testing.assert_allclose(weighted.values, 0.75 * ONE + 0.25 * OTHER)


def test_what_they_say_of_themselves() -> None:
    both = [
        scores(ONE),
        scores(OTHER, method="b", direction="between", estimates="a slope", provenance={"model": "toy"}),
    ]
    found = combine_scores(both, weights=[1, 3])
    assert (found.method, found.direction) == ("a+b", "unknown")
    assert found.estimates == "mean of the scores of 2, scaled by largest"
    assert found.provenance["model"] == "toy" and "seed" not in found.provenance
    told = found.provenance["combined"]
    assert told["weights"] == [0.25, 0.75] and [part["method"] for part in told["of"]] == ["a", "b"]
    assert [part["scores"] for part in told["of"]] == [part.digest for part in both]
    same = combine_scores([scores(ONE), scores(OTHER)], scale="none")
    assert (same.method, same.direction, same.estimates) == ("a", "noising", "a rise")


def test_refusals() -> None:
    deeper = EdgeScores.of(replace(TOY, n_layers=2), np.zeros(23), method="a", direction="noising", estimates="a rise")
    one = scores(ONE)
    wrong = [
        (ConfigurationError, "at least one", [], {}),
        (UnknownNameError, "way to combine", [one], {"how": "median"}),
        (UnknownNameError, "scale", [one], {"scale": "softmax"}),
        (ConfigurationError, "expected 1 weights", [one], {"weights": [1, 2]}),
        (ConfigurationError, "not all 0", [one, one], {"weights": [0, 0]}),
        (ConfigurationError, "none below 0", [one, one], {"weights": [2, -1]}),
        (ConfigurationError, "weights are for a mean", [one], {"weights": [1], "how": "max"}),
        (GraphMismatchError, "n_layers", [one, deeper], {}),
        (GraphMismatchError, "ablation", [one, scores(ONE, ablation="zero")], {}),
        (GraphMismatchError, "choose a scale", [one, scores(ONE, estimates="a slope")], {"scale": "none"}),
    ]
    for error, message, several, options in wrong:
        with pytest.raises(error, match=message):
            combine_scores(several, **options)
