"""Circuits on tasks: each row is what `evaluate` says of that circuit there; the task's own measure; refusals."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.graph.universe import Universe
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from pruning.evaluation.evaluate import evaluate
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks import load_task
from pruning.transfer.measure import measure_transfer, usual_measure


@pytest.fixture(scope="module")
def setting():
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    tasks = {
        str(length): load_task("tracr-reverse", loaded.tokenizer, options={"max_length": length}) for length in (2, 3)
    }
    universe = compiled.universe
    truth = Circuit.from_edges(universe, ground_truth_edges("reverse"), ablation="zero")
    rng = np.random.default_rng(0)
    half = Circuit.from_edges(universe, rng.random(universe.n_edges) < 0.5, ablation="zero")
    return compiled, tasks, {"truth": truth, "half": half}


def test_every_row_is_what_evaluate_says_of_it(setting):
    compiled, tasks, circuits = setting
    table = measure_transfer(compiled, circuits, tasks)
    assert table[["task", "circuit"]].values.tolist() == [
        [task, circuit] for task in tasks for circuit in ("full", "empty", "truth", "half")
    ]
    for row in table.to_dict("records"):
        circuit = circuits.get(row["circuit"], circuits["truth"])
        metrics = evaluate(compiled, circuit, tasks[row["task"]].split("test"), n_random=0).metrics
        alone = metrics[row["circuit"] if row["circuit"] in ("full", "empty") else "circuit"]
        for name in ("n", "n_edges", "kl", "accuracy", "exact_match"):
            assert row[name] == pytest.approx(alone[name], abs=1e-9), (row["circuit"], row["task"], name)
    assert set(table["measure"]) == {"kl"} and set(table["split"]) == {"test"}
    assert table["kl"].dtype == table["accuracy_low"].dtype == np.float64


def test_a_prompts_own_measure():
    ids = (np.array([1, 2]), np.array([1, 3]))
    common = {"clean_ids": ids, "corrupted_ids": ids[::-1], "predict_positions": (np.array([1]),) * 2}

    def pairs(right, wrong):
        answers = tuple(np.array(one[:1]) for one in right)
        sets = [tuple(np.array(one, dtype=np.int64) for one in side) for side in (right, wrong)]
        return EncodedPairs(**common, answer_ids=answers, correct_ids=sets[0], wrong_ids=sets[1])

    assert usual_measure(pairs([[5], [6]], [[7], [8]])) == "logit_diff"
    assert usual_measure(pairs([[5], [6, 9]], [[7], [8]])) == "prob_diff"
    assert usual_measure(pairs([[5], [6]], [[7], [8, 9]])) == "prob_diff"
    assert usual_measure(pairs([[5], [6]], [[7], []])) == "kl"


def test_what_cannot_be_measured_together_is_refused_before_anything_runs(setting, monkeypatch):
    compiled, tasks, circuits = setting
    monkeypatch.setattr("pruning.transfer.measure.evaluate_masks", lambda *a, **k: pytest.fail("something ran"))
    truth = circuits["truth"]
    other = Circuit.from_edges(Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1), ["input->logits"])
    mean = Circuit.from_edges(compiled.universe, list(truth), ablation="mean")
    optimal = Circuit.from_edges(compiled.universe, list(truth), ablation="optimal")
    for given, told in (
        ({}, "got no circuit"),
        ({"full": truth}, "a circuit cannot be called 'full'"),
        ({"a": truth, "b": mean}, "a under zero, b under mean"),
        ({"a": optimal}, "constants of its own"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            measure_transfer(compiled, given, tasks)
    with pytest.raises(GraphMismatchError, match="the universe of 'x'"):
        measure_transfer(compiled, {"x": other}, tasks)
    with pytest.raises(ConfigurationError, match="got no task"):
        measure_transfer(compiled, circuits, {})
    with pytest.raises(UnknownNameError, match="tesst"):
        measure_transfer(compiled, circuits, tasks, split="tesst")
