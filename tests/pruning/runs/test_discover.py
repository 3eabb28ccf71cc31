"""The main job in one call, on a compiled program and few steps: what it gives back and what it says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, IncompleteResultWarning, UnknownNameError
from circuitgraph.graph.build import build_graph
from circuitgraph.models import load_model
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.state import StepRecord
from pruning.runs.discover import discover
from pruning.runs.discovery import Discovery
from pruning.tasks import TaskData, load_task
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

pytestmark = pytest.mark.slow

RECIPE = recipe_named("tracr").changed(steps=25, target_sparsity=0.5)


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(load_model("tracr:xproportion"), embeddings="split", verify=False)


@pytest.fixture(scope="module")
def task(compiled: CompiledModel) -> TaskData:
    return load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3})


@pytest.fixture(scope="module")
def found(compiled: CompiledModel, task: TaskData) -> Discovery:
    return discover(compiled, task, RECIPE, seed=3, n_random=2)


def test_metrics(found: Discovery, task: TaskData) -> None:
    assert set(found.metrics) == {
        "sparsity", "splits", "seconds", "training_seconds", "peak_rss_bytes", "diagnoses", "verdicts", "frozen_runs",
        "preflight",
        "effects",
    }  # fmt: skip
    assert set(found.metrics["splits"]) == {"validation", "test"}
    for split, roles in found.metrics["splits"].items():
        assert {"circuit", "full", "empty", "complement", "random"} <= set(roles)
        for role, row in roles.items():
            # Random circuits run on a sample of the prompts, all others on all of them.
            assert row["n"] == (32 if role == "random" else len(task.splits[split])) and len(task.splits[split]) == 84
            assert {"mse", "accuracy", "exact_match"} <= set(row)
    assert found.metrics["splits"]["test"]["random"]["n_circuits"] == 2
    sparsity = found.metrics["sparsity"]
    assert sparsity["n_universe"] == 32 and sparsity["n_effective"] == len(found.circuit)
    assert sparsity["raw"] == 1 - sparsity["n_raw"] / 32
    assert sparsity["effective"] == 1 - sparsity["n_effective"] / 32
    assert 0 < found.metrics["training_seconds"] < found.metrics["seconds"] < 600
    assert 50e6 < found.metrics["peak_rss_bytes"] < 64e9


def test_a_splits_table(found: Discovery) -> None:
    table = found.table("validation")
    assert table.loc["circuit", "mse"] == found.metrics["splits"]["validation"]["circuit"]["mse"]
    assert list(found.table().index) == list(found.metrics["splits"]["test"])
    with pytest.raises(UnknownNameError, match="evaluated split 'tests'.*'test'"):
        found.table("tests")


def test_provenance_says_where_the_circuit_came_from(found: Discovery, compiled: CompiledModel, task: TaskData) -> None:
    provenance = found.circuit.provenance
    expected = {
        "model": "tracr:xproportion",
        "revision": compiled.revision,
        "config_hash": compiled.config_hash,
        "tokenizer": "TracrTokenizer",
        "memory": {
            "micro_batch": RECIPE.batch_size,
            "micro_batch_at_the_end": RECIPE.batch_size,
            "recompute": False,
            "cache_bytes": 2 << 30,
            "short_runs": False,
        },
        "cpu_kernels": compiled.uses_cpu_kernels,
        "task": "tracr-xproportion",
        "data_hash": task.data_hash,
        "ablation": "zero",
        "objective": "mse",
        "method": "edge-pruning",
        "score_meaning": "log-alpha",
        "recipe": RECIPE.to_dict(),
        "seed": 3,
        "steps_taken": 25,
        "sparsity": found.metrics["sparsity"],
        "metrics": found.metrics["splits"],
        "seconds": found.metrics["seconds"],
        "dtype": "float32",
    }
    assert {name: provenance[name] for name in expected} == expected
    assert provenance["task_options"] == dict(task.provenance)
    assert provenance["edits"]["removed"] == provenance["edits"]["frozen"] == provenance["edits"]["tied"] == 0
    assert provenance["hardware"]["device"] == "cpu" and provenance["hardware"]["cpu"]
    assert provenance["versions"]["torch"] == torch.__version__
    assert {"python", "transformers", "networkx", "numpy"} <= set(provenance["versions"])


def test_the_circuit_survives_its_file(found: Discovery, tmp_path) -> None:
    path = found.circuit.save(tmp_path / "circuit.json")
    again = Circuit.load(path)
    assert again == found.circuit and again.provenance == found.circuit.provenance


def test_examples_and_curve(found: Discovery, task: TaskData) -> None:
    assert found.examples["prompt"].tolist() == list(task.splits["test"].texts)
    assert found.curve["step"].tolist() == list(range(25))
    assert list(found.curve.columns) == list(StepRecord.__dataclass_fields__)
    assert found.curve["sparsity"].tolist() == [record.sparsity for record in found.run.records]


def test_the_same_seed_gives_the_same_circuit(found: Discovery, compiled: CompiledModel, task: TaskData) -> None:
    state = GlobalRandomState()
    again = discover(compiled, task, RECIPE, seed=3, n_random=2)
    state.assert_untouched()
    assert np.array_equal(again.circuit.edge_ids, found.circuit.edge_ids)
    assert np.array_equal(again.circuit.scores, found.circuit.scores)
    assert again.metrics["splits"] == found.metrics["splits"]
    other = discover(compiled, task, RECIPE, seed=4, n_random=0, splits=())
    assert not torch.equal(other.run.gates.log_alpha, found.run.gates.log_alpha)


def test_the_cache_changes_no_bit(found: Discovery, compiled: CompiledModel, task: TaskData) -> None:
    bare = discover(compiled, task, RECIPE, seed=3, n_random=0, splits=("test",), cache_bytes=0)
    assert np.array_equal(bare.circuit.edge_ids, found.circuit.edge_ids)
    assert set(bare.metrics["splits"]) == {"test"}


def test_a_target_that_was_not_reached_is_told(found: Discovery) -> None:
    """Twenty-five steps at this recipe's pace cut next to nothing."""
    assert any("target was not reached" in line for line in found.diagnoses)
    assert list(found.diagnoses) == found.metrics["diagnoses"]


def test_an_empty_circuit_is_told_and_measured(compiled: CompiledModel, task: TaskData) -> None:
    recipe = replace(RECIPE, steps=2, init_mean=-20.0, init_std=0.01, target_sparsity=1.5, keep="paper")
    found = discover(compiled, task, recipe, n_random=1, splits=("test",))
    assert len(found.circuit) == 0
    assert any("circuit is empty" in line for line in found.diagnoses)
    roles = found.metrics["splits"]["test"]
    assert roles["circuit"] == {name: value for name, value in roles["empty"].items() if name != "difference"}
    assert found.metrics["sparsity"]["effective"] == 1


def test_target_keeps_as_many_edges_as_asked(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(seed=2), verify=False)
    prompts = random_prompts(lengths=[4, 5] * 4, wrong=True)
    data = TaskData(
        name="random", splits={"train": prompts, "validation": prompts, "test": prompts}, notes=(),
        provenance={"task": "random"}, data_hash="x", objective="kl",
    )  # fmt: skip
    recipe = recipe_named("quick").changed(steps=12, target_sparsity=0.6, start_sparsity=0.3)
    said: list[str] = []
    seen: list[StepRecord] = []
    found = discover(compiled, data, recipe, n_random=1, watch=seen.append, say=said.append)
    n_edges = compiled.universe.n_edges
    assert found.metrics["sparsity"]["n_raw"] == round(0.4 * n_edges)
    assert found.circuit.ablation == "counterfactual" and found.circuit.provenance["objective"] == "kl"
    assert len(seen) == 12 and len(said) >= 3
    assert abs(found.metrics["sparsity"]["kl_effective_minus_raw"]) < 1e-5, "what dangled changed nothing"
    mean = found.examples["kl"].mean()
    assert found.metrics["splits"]["test"]["circuit"]["kl"] == pytest.approx(mean)


def test_the_callers_choices_come_before_the_recipes(compiled: CompiledModel, task: TaskData) -> None:
    recipe = replace(RECIPE, steps=2, objective="position-kl")
    found = discover(compiled, task, recipe, n_random=0, splits=(), ablation="mean", objective="mse")
    assert found.circuit.ablation == "mean" and found.circuit.provenance["objective"] == "mse"
    found = discover(compiled, task, recipe, n_random=0, splits=())
    assert found.circuit.ablation == "zero" and found.circuit.provenance["objective"] == "position-kl"


def test_stopping_early_still_gives_a_circuit(compiled: CompiledModel, task: TaskData) -> None:
    def watch(record: StepRecord) -> None:
        if record.step == 4:
            raise KeyboardInterrupt

    with pytest.warns(IncompleteResultWarning, match="evaluation:test: left out.*effects: left out"):
        found = discover(compiled, task, RECIPE, n_random=0, splits=("test",), watch=watch)
    assert found.run.interrupted and found.circuit.provenance["steps_taken"] == 5
    assert "interrupted by the user after 5 steps" in found.diagnoses[0]
    assert len(found.curve) == 5


def test_edits_of_the_graph_hold(compiled: CompiledModel, task: TaskData) -> None:
    graph = build_graph(compiled.universe)
    graph.remove_edge("tok", "logits")
    graph.edges["a1.h0", "logits"]["frozen"] = True
    found = discover(compiled.with_graph(graph), task, RECIPE, n_random=0, splits=())
    assert "a1.h0->logits" in found.circuit and "tok->logits" not in found.circuit
    edits = found.circuit.provenance["edits"]
    assert edits["removed_edges"] == ["tok->logits"] and edits["frozen_edges"] == ["a1.h0->logits"]


def test_a_target_that_frozen_edges_forbid(compiled: CompiledModel, task: TaskData) -> None:
    graph = build_graph(compiled.universe)
    for _, _, data in graph.in_edges("logits", data=True):
        data["frozen"] = True
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        discover(compiled.with_graph(graph), task, replace(RECIPE, target_sparsity=0.95))


def test_names_that_do_not_exist(compiled: CompiledModel, task: TaskData) -> None:
    with pytest.raises(UnknownNameError, match="recipe"):
        discover(compiled, task, "quik")
    with pytest.raises(UnknownNameError, match="objective"):
        discover(compiled, task, RECIPE, objective="kll")
    with pytest.raises(UnknownNameError, match="ablation"):
        discover(compiled, task, RECIPE, ablation="zeros")


def test_nothing_to_learn_from(compiled: CompiledModel, task: TaskData) -> None:
    nothing = replace(task, splits={**task.splits, "train": task.splits["train"].subset([])})
    with pytest.raises(ConfigurationError, match="train split is empty"):
        discover(compiled, nothing, RECIPE)
