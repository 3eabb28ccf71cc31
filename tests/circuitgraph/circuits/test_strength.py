"""One rule for the strongest edges: by size, but for trained gates, of which a score far below 0 is nearly cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from analysis.algebra import union
from analysis.drawing import circuit_to_dot
from analysis.drawing.selection import strongest_edges
from analysis.seeds import consensus
from analysis.structure.hubs import hubs
from analysis.structure.paths import strongest_paths
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.graph.universe import Universe

UNIVERSE = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
SCORES = {"input->logits": -8.0, "input->m0": 2.0, "m0->logits": 3.0}


def circuit(**provenance: Any) -> Circuit:
    return Circuit.from_edges(UNIVERSE, SCORES, provenance=provenance)


GATES, ATTRIBUTIONS = circuit(method="edge-pruning"), circuit(method="eap")


def test_an_attribution_counts_by_size_and_a_gate_by_its_score(tmp_path) -> None:
    by_name = dict(zip(ATTRIBUTIONS, ATTRIBUTIONS.strengths.tolist(), strict=True))
    assert by_name == {name: abs(score) for name, score in SCORES.items()}
    of_gates = dict(zip(GATES, GATES.strengths.tolist(), strict=True))
    assert of_gates == pytest.approx({name: math.log1p(math.exp(score)) for name, score in SCORES.items()})
    # The order is the scores', also far below 0 where exp is small.
    many = Circuit.from_edges(UNIVERSE, SCORES | {"m0->logits": -30.0}, provenance={"method": "edge-pruning"})
    assert np.array_equal(np.argsort(many.strengths), np.argsort(many.scores))
    assert Circuit.load(GATES.save(tmp_path / "c.json")).score_meaning == "log-alpha"


@pytest.mark.parametrize(("found", "first"), [(GATES, ["input->m0", "m0->logits"]), (ATTRIBUTIONS, ["input->logits"])])
def test_top_drawings_and_paths_agree(found: Circuit, first: list[str]) -> None:
    n = len(first)
    assert list(found.top(n)) == first
    assert [list(found)[place] for place in strongest_edges(found, n)] == first
    assert ("input -> m0" in strongest_paths(found, 1)["path"][0]) == (n == 2)
    row = hubs(found).set_index("node").loc["logits"]
    assert row["in_score"] == pytest.approx(3 + 8 if n == 1 else math.log1p(math.exp(3)) + math.log1p(math.exp(-8)))
    legend = circuit_to_dot(found)
    assert ("larger the score" in legend) == (n == 2) and ("|score|" in legend) == (n == 1)


def test_what_is_made_of_gates_still_says_so() -> None:
    for made in (GATES.top(3), GATES.without([]), union(GATES, GATES)):
        assert made.score_meaning == "log-alpha"
    assert union(GATES, ATTRIBUTIONS).score_meaning == ""
    assert consensus([GATES, GATES]).score_meaning == "share of circuits"
