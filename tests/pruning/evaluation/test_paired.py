"""Circuits against each other, prompt by prompt: against their separate evaluations."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from pruning.evaluation.evaluate import evaluate
from pruning.evaluation.intervals import intervals_of
from pruning.evaluation.paired import compare_faithfulness
from tests.pruning.prompts.small_prompts import random_prompts

PAIRS = random_prompts(lengths=[4, 3, 4, 3, 4, 3, 4, 4], wrong=True)


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(seed=2), verify=False)


def circuit_of(compiled: CompiledModel, share: float, **how) -> Circuit:
    return Circuit.from_edges(
        compiled.universe, np.random.default_rng(0).random(compiled.universe.n_edges) < share, **how
    )


def test_differences_are_those_of_separate_evaluations(compiled: CompiledModel) -> None:
    circuits = {"large": circuit_of(compiled, 0.9), "small": circuit_of(compiled, 0.2), "all": circuit_of(compiled, 2)}
    found = compare_faithfulness(compiled, circuits, PAIRS)
    alone = {name: evaluate(compiled, one, PAIRS, n_random=0).examples for name, one in circuits.items()}
    table = found.differences
    assert list(zip(table["a"], table["b"], strict=True))[::6] == [
        ("large", "small"),
        ("large", "all"),
        ("small", "all"),
    ]
    assert table["measure"].tolist()[:6] == [
        "kl", "exact_match", "accuracy", "logit_diff", "prob_diff", "kendall_tau",
    ]  # fmt: skip
    for row in table.to_dict("records"):
        ours, theirs = (alone[row[side]][row["measure"]].to_numpy() for side in "ab")
        has = ~(np.isnan(ours) | np.isnan(theirs))
        assert row["n"] == has.sum() == (6 if row["measure"] == "kendall_tau" else 8)  # two list fewer than three
        assert row["mean_a"] == pytest.approx(np.nanmean(ours), abs=1e-6)
        assert row["difference"] == pytest.approx(np.nanmean(ours - theirs), abs=1e-6)
        bounds = intervals_of({"x": ours - theirs})["x"]
        assert [row["low"], row["high"]] == pytest.approx(bounds, abs=1e-6)
    closer = {(row["a"], row["b"], row["measure"]): row["closer"] for row in table.to_dict("records")}
    assert closer["large", "all", "kl"] == closer["small", "all", "kl"] == "all"
    assert closer["small", "all", "exact_match"] in ("all", ""), "more agreement is closer"
    assert closer["large", "small", "accuracy"] == closer["large", "small", "logit_diff"] == ""
    assert found.metrics["small"]["n_edges"] == len(circuits["small"])
    assert found.metrics["full"]["kl"] == 0


def test_a_circuit_is_as_close_as_itself(compiled: CompiledModel) -> None:
    one = circuit_of(compiled, 0.5)
    table = compare_faithfulness(compiled, {"a": one, "b": one}, PAIRS).differences
    assert (table["difference"] == 0).all() and (table["closer"] == "").all()
    single = compare_faithfulness(compiled, {"a": one, "b": circuit_of(compiled, 0.1)}, PAIRS.subset([0])).differences
    assert single["low"].isna().all() and single["difference"].notna().all() and (single["closer"] == "").all()


def test_refusals(tiny_gpt2, compiled: CompiledModel) -> None:
    one = circuit_of(compiled, 0.5)
    with pytest.raises(ConfigurationError, match="two circuits or more; got 1"):
        compare_faithfulness(compiled, {"a": one}, PAIRS)
    with pytest.raises(ConfigurationError, match=r"counterfactual, zero"):
        compare_faithfulness(compiled, {"a": one, "b": circuit_of(compiled, 0.5, ablation="zero")}, PAIRS)
    split = compile_model(tiny_gpt2(), embeddings="split", verify=False)
    with pytest.raises(GraphMismatchError, match="the universe of 'b' is not"):
        compare_faithfulness(compiled, {"a": one, "b": circuit_of(split, 0.5)}, PAIRS)
    with pytest.raises(ConfigurationError, match="no prompts"):
        compare_faithfulness(compiled, {"a": one, "b": one}, PAIRS.subset([]))
