"""The smallest faithful circuit: against every size measured alone, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.circuits.selection.top import top_edges
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.universe import Universe
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.runs.rank import rank_edges
from pruning.tasks import load_task
from pruning.transfer.found import circuits_of_tasks
from pruning.transfer.smallest import smallest_circuit


@pytest.fixture(scope="module")
def setting():
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
    return compiled, task, rank_edges(compiled, task, "eap")


@pytest.fixture(scope="module")
def alone(setting):
    """Faithfulness by KL of every number of edges, each measured by itself."""
    compiled, task, scores = setting
    found = []
    for n in range(29):  # the first that is enough has fewer
        metrics = evaluate(compiled, top_edges(scores, n), task.split("test"), n_random=0).metrics
        found.append(1 - metrics["circuit"]["kl"] / metrics["empty"]["kl"])
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("zoom", [0, 1, 5])
def test_it_is_the_first_of_the_sizes_tried_that_is_enough(setting, alone, zoom):
    compiled, task, scores = setting
    sizes = (0.05, 0.1, 0.3, 0.6, 1.0)
    found = smallest_circuit(compiled, scores, task.split("test"), sizes=sizes, zoom=zoom)
    tried = found.tried
    counts = tried["n_edges"].tolist()
    assert counts == sorted(counts) and tried["enough"].tolist() == [False] * (len(counts) - 1) + [True]
    assert max(counts) <= 28
    assert tried["faithfulness"].tolist() == pytest.approx(alone[counts].tolist(), abs=1e-6)
    assert found.faithfulness >= 0.85 > alone[counts[-2]]
    assert found.circuit == top_edges(scores, counts[-1]) and found.size == counts[-1] / 94
    assert found.circuit.provenance["selection"]["n"] == counts[-1]
    # Sizes asked for, then each time the one halfway between the last that is not enough and the first that is.
    low, high = 9, 28
    assert alone[9] < 0.85 <= alone[28]
    for _ in range(zoom):
        if high - low > 1:
            half = (low + high) // 2
            low, high = (low, half) if alone[half] >= 0.85 else (half, high)
    assert counts[-2:] == [low, high]


def test_a_circuit_for_each_task_ranked_and_judged_on_its_own_prompts(setting):
    compiled, task, _ = setting
    found = circuits_of_tasks(compiled, {"one": task, "two": task}, "eap", zoom=0, sizes=(0.1, 0.5, 1.0))
    assert list(found.circuits) == ["one", "two"] and found.circuits["one"] == found.circuits["two"]
    assert found.tried.columns.tolist() == ["task", "measure", "size", "n_edges", "faithfulness", "kl", "enough"]
    assert found.tried["task"].tolist() == ["one"] * (len(found.tried) // 2) + ["two"] * (len(found.tried) // 2)


def test_refusals(setting):
    compiled, task, scores = setting
    pairs = task.split("test")
    with pytest.raises(
        ConfigurationError, match=r"none of 2 sizes is as faithful as 0.85 by kl; the best has .* of 94"
    ):
        smallest_circuit(compiled, scores, pairs, sizes=(0.01, 0.05))
    for sizes in ((), (0.0, 1.0), (1.5,)):
        with pytest.raises(ConfigurationError, match="size"):
            smallest_circuit(compiled, scores, pairs, sizes=sizes)
    with pytest.raises(ConfigurationError, match="measure 'logit_diff' has no mean"):
        smallest_circuit(compiled, scores, pairs, measure="logit_diff")
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    other = EdgeScores.of(universe, np.zeros(universe.n_edges), method="m", direction="noising", estimates="x")
    with pytest.raises(GraphMismatchError, match="another universe"):
        smallest_circuit(compiled, other, pairs)
    with pytest.raises(ConfigurationError, match="at least one task"):
        circuits_of_tasks(compiled, {})
    for asked, told in (({"faithfulness": float("nan")}, "faithfulness must be a number"), ({"sizes": (2.0,)}, "size")):
        lines: list[str] = []
        with pytest.raises(ConfigurationError, match=told):
            circuits_of_tasks(compiled, {"one": task}, say=lines.append, **asked)
        assert not lines  # before anything is ranked
