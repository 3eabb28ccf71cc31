"""A ranking measured at several sizes: each circuit as it is when it is measured alone."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.rankings.mib import cpr_and_cmd, with_faithfulness
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe
from pruning.evaluation.masks import evaluate_masks
from pruning.evaluation.rankings import measure_ranking
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 5, 4], n_asked=(1, 2))


@pytest.fixture(scope="module")
def compiled(tiny_gpt2):
    return compile_model(tiny_gpt2(), verify=False)


def scores_of(compiled, seed: int, **about) -> EdgeScores:
    values = np.random.default_rng(seed).normal(size=compiled.universe.n_edges)
    return EdgeScores.of(compiled.universe, values, method=f"m{seed}", direction="noising", estimates="x", **about)


def test_each_row_is_the_circuit_alone(compiled) -> None:
    scores = scores_of(compiled, 0)
    table = measure_ranking(compiled, scores, PROMPTS, sizes=(0.3, 0.6), orders=("signed", "size"))
    assert table["size"].tolist() == [0.0, 0.3, 0.6, 1.0] * 2 and set(table["method"]) == {"m0"}
    n = compiled.universe.n_edges
    for row in table.to_dict("records"):
        worth = scores.values if row["order"] == "signed" else np.abs(scores.values)
        mask = np.zeros(n, dtype=bool)
        mask[np.argsort(-worth)[: int(row["size"] * n)]] = True
        alone = evaluate_masks(compiled, {"one": mask}, PROMPTS, ablation="counterfactual", intervals=False)["one"]
        assert row["kl"] == pytest.approx(alone["kl"], abs=1e-6) and row["n_edges"] == alone["n_edges"]
    assert table[table["size"] == 1]["kl"].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_it_goes_on_to_cpr(compiled) -> None:
    named = {"a": scores_of(compiled, 1), "b": scores_of(compiled, 2)}
    table = measure_ranking(compiled, named, PROMPTS, sizes=(0.5,))
    areas = cpr_and_cmd(with_faithfulness(table, "kl", by="method"), by="method")
    assert areas["method"].tolist() == ["a", "b"] and (areas["n_sizes"] == 2).all()


def test_what_cannot_be_measured_is_refused(compiled) -> None:
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        measure_ranking(compiled, scores_of(compiled, 0), PROMPTS, sizes=(2,))
    with pytest.raises(ConfigurationError, match="one ablation"):
        mixed = {"a": scores_of(compiled, 0), "b": scores_of(compiled, 1, ablation="zero")}
        measure_ranking(compiled, mixed, PROMPTS)
    other = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    strange = EdgeScores.of(other, np.zeros(other.n_edges), method="m", direction="noising", estimates="x")
    with pytest.raises(GraphMismatchError, match="another universe"):
        measure_ranking(compiled, strange, PROMPTS)
