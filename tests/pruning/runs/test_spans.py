"""A run with spans of positions: found, kept, read back, measured again; and what does not know spans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuitgraph import Circuit, Intervention, compile_model, load_model
from circuitgraph.cli import main
from circuitgraph.cli.found_circuit import load_found_circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.graph.node_names import node_span
from circuitgraph.interventions.applied import intervene
from pruning import discover, evaluate, load_task
from pruning.evaluation.trained_on import task_of_provenance
from pruning.runs.load import plan_run, read_run
from pruning.tasks import TaskData
from pruning.tasks.spans import divided_as


@pytest.fixture(scope="module")
def made() -> tuple[CompiledModel, TaskData]:
    compiled = compile_model(load_model("induction-neox"), verify=False)
    task = load_task("induction", compiled.tokenizer, sizes={"train": 24, "validation": 8, "test": 8}).with_spans()
    return compiled.with_spans(task.spans, asked=task.asked_spans), task


@pytest.mark.slow
def test_a_circuit_with_spans_is_found_kept_and_measured_again(
    made: tuple[CompiledModel, TaskData], tmp_path: Path
) -> None:
    compiled, task = made
    found = discover(
        compiled, task, steps=30, target_sparsity=0.75, warm_start="none", out=tmp_path / "run", progress=False,
        n_random=1, n_effects=0,
    )  # fmt: skip
    circuit = Circuit.load(tmp_path / "run" / "circuit.json")
    assert circuit.universe == compiled.universe and circuit == found.circuit
    assert all(node_span(u) == node_span(v) in ("letters", "again") for u, v in circuit.edges)
    assert circuit.graph.nodes["logits@again"]["span"] == "again"
    again = task_of_provenance(circuit.provenance, compiled.tokenizer)
    assert (again.data_hash, again.spans) == (task.data_hash, task.spans)
    measured = evaluate(compiled, circuit, again.split("test"), n_random=0).metrics
    assert measured["circuit"]["kl"] == pytest.approx(found.metrics["splits"]["test"]["circuit"]["kl"], rel=1e-4)
    # The model moves a letter from where it stands to where it is asked: no circuit does without the first span.
    assert {node_span(u) for u, _ in circuit.edges} == {"letters", "again"}
    assert read_run(tmp_path / "run").request.task.spans == "task"
    asked = {"model": None, "device": "cpu", "dtype": None, "verify": False}
    loaded = load_found_circuit(tmp_path / "run" / "circuit.json", **asked)
    assert loaded.compiled.universe == circuit.universe and loaded.own_task(exact=True).spans == task.spans


@pytest.mark.parametrize("method", ["random", "eap", pytest.param("gate-importance", marks=pytest.mark.slow)])
def test_methods_that_know_spans_score_every_edge(made: tuple[CompiledModel, TaskData], method: str) -> None:
    compiled, task = made
    found = discover(
        compiled, task, method=method, target_sparsity=0.7, splits=(), n_random=0, n_effects=0, progress=False
    )
    scores = found.scores
    assert scores is not None and len(scores) == compiled.universe.n_edges
    if method == "gate-importance":
        # What the prompt has before it differs from its counterfactual has no say.
        assert np.count_nonzero(scores.values) > 50


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"method.name": "exact"}, "method 'exact': does not know spans"),
        ({"method.name": "acdc"}, "method 'acdc': does not know spans"),
        ({"recipe.warm_start": "exact"}, "warm_start 'exact': does not know spans"),
        ({"n_effects": 5}, r"n_effects 5 \(single edges cut\): does not know spans"),
        ({"survivors": 50, "survivors_by": "exact"}, "survivors by 'exact': does not know spans"),
        ({"direction": "both"}, "direction 'both': does not know spans"),
    ],
)
def test_what_does_not_know_spans_is_refused_before_anything_is_loaded(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        plan_run({"model.name": "induction-neox", "task.name": "induction", "task.spans": "task", **chosen})


def test_prompts_and_model_that_differ_in_spans_are_refused(made: tuple[CompiledModel, TaskData]) -> None:
    compiled, task = made
    plain = load_task("induction", compiled.tokenizer, sizes={"train": 8, "validation": 0, "test": 8})
    with pytest.raises(ConfigurationError, match="the prompts are not divided into spans"):
        discover(compiled, plain, steps=1, progress=False, splits=(), n_effects=0)
    with pytest.raises(ConfigurationError, match="the prompts are not divided into spans"):
        evaluate(compiled, Circuit.from_edges(compiled.universe, ["input@again->logits@again"]), plain.split("test"))


def test_a_circuit_whose_file_does_not_tell_how_prompts_were_divided_is_measured_all_the_same(
    made: tuple[CompiledModel, TaskData], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one that was made of two with other options of the task, as `combine` makes it."""
    compiled, task = made
    about = {"model": "induction-neox", "task": "induction"}
    circuit = Circuit.from_edges(compiled.universe, ["input@again->logits@again"], provenance=about)
    file = circuit.save(tmp_path / "circuit.json")
    found = load_found_circuit(file, model=None, device="cpu", dtype=None, verify=False)
    assert found.task(None).spans == task.spans
    assert main(["run", str(file), "--prompt", "a b c a", "--corrupted", "b a c a"]) == 2
    assert "a single --prompt does not know spans of token positions" in capsys.readouterr().err
    for command in (["coordinates", str(file)], ["heads", "--circuit", str(file), "--out", str(tmp_path / "heads")]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "does not know spans of token positions" in told and "loading" not in told
    plain = load_task("induction", compiled.tokenizer, sizes={"train": 30, "validation": 0, "test": 0})
    train = plain.split("train")
    n = int(train.lengths[0])
    one_length = replace(plain, splits={"train": train.subset(np.flatnonzero(train.lengths == n))})
    assert divided_as(one_length, [f"p{place}" for place in range(n)]).asked_spans == (f"p{n - 1}",)
    assert divided_as(plain, ()) is plain
    with pytest.raises(ConfigurationError, match="circuit has the spans a, b, and .* have the spans letters, again"):
        divided_as(plain, ("a", "b"))
    with pytest.raises(ConfigurationError, match="circuit has no spans, and .* have the spans letters, again"):
        divided_as(task, ())


@pytest.mark.slow
def test_a_result_is_complete_without_an_explorer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--train-size 8 --validation-size 0 --test-size 4 --n-random 0 --set n_effects=0"
    how = f"--model induction-neox --task induction --spans task --method random --target-sparsity 0.2 {sizes}"
    assert main(["discover", *how.split(), "--out", str(tmp_path / "run")]) == 0
    assert "no circuit.html: the explorer does not show spans of tokens" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    made_now = json.loads(capsys.readouterr().out)
    assert (made_now["made"], made_now["missing"]) == (["report"], {})
    assert main(["report", str(tmp_path / "run"), "--only", "explorer"]) == 2
    assert "the explorer does not know spans" in capsys.readouterr().err


def test_an_intervention_turns_edges_up_or_down_at_their_span_alone(made: tuple[CompiledModel, TaskData]) -> None:
    spanned, task = made
    plain = compile_model(load_model("induction-neox"), verify=False)
    batch = task.split("test").batch(range(8)).clean
    at_the_end = {f"a1.h{head}@again->logits@again": -1.0 for head in (0, 1)}
    everywhere = {f"a1.h{head}->logits": -1.0 for head in (0, 1)}
    turned = intervene(spanned, Intervention.from_edges(spanned.universe, at_the_end)).logits(batch)
    expected = intervene(plain, Intervention.from_edges(plain.universe, everywhere)).logits(batch)
    # Logits are read at the asked token alone, so the edges into them are cut there or nowhere.
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)
    assert (turned - plain.logits(batch)).abs().max() > 1
    with pytest.raises(GraphMismatchError, match=r"spans: \('letters', 'again'\) against \(\)"):
        intervene(plain, Intervention.from_edges(spanned.universe, at_the_end))
