"""Noising, denoising and both: of every kind of method, against untouched models and plain loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.combined_scores import both_directions
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UnknownNameError
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.evaluation.trained_on import task_of_provenance
from pruning.methods.eap import EAP
from pruning.runs.discover import discover
from pruning.runs.rank import rank_edges
from pruning.runs.request import RunRequest
from pruning.runs.sweep import discover_seeds
from pruning.tasks import TaskData, load_task
from tests.oracles.hooks import cut_edge, said_by
from tests.pruning.methods.test_acdc import by_masked_runs, naive_acdc
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 3, 4], n_asked=(1, 2))
CHOICES = {"n_random": 1, "n_effects": 0, "splits": ("test",), "target_sparsity": 0.8, "progress": False}


@pytest.fixture(scope="module")
def tiny(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(n_layers=2, n_heads=2, d_head=2, dtype=torch.float64), verify=False)


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(load_model("induction-neox"), verify=False)


@pytest.fixture(scope="module")
def task(compiled: CompiledModel) -> TaskData:
    return load_task("induction", compiled.tokenizer, sizes={"train": 6, "validation": 2, "test": 6})


def kl(teacher: torch.Tensor, logits: torch.Tensor) -> float:
    expected = teacher.log_softmax(-1)
    return float((expected.exp() * (expected - logits.log_softmax(-1))).sum(-1).mean())


def test_denoising_restores_edges_in_the_untouched_model(tiny: CompiledModel) -> None:
    """Each edge carries the clean prompt's values in the corrupted run, by hooks; the teacher is that run."""
    universe, model = tiny.universe, tiny.model
    found = rank_edges(tiny, PROMPTS, "exact", direction="denoising", objective="kl")
    assert (found.direction, found.provenance["prompts"]) == ("denoising", "swapped")
    for edge in (*range(0, universe.n_edges, 7), universe.n_edges - 1):
        writer, reader = universe.edge_name(edge).split("->")
        expected = 0.0
        for prompt in range(len(PROMPTS)):
            batch = PROMPTS.batch([prompt])
            restored = cut_edge(model, writer, reader, batch.corrupted, said_by(model, writer, batch.clean))
            expected += kl(tiny.logits(batch.corrupted), restored) / len(PROMPTS)
        assert found[universe.edge_name(edge)] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_both_adds_up_sizes(tiny: CompiledModel) -> None:
    pairs = replace(PROMPTS, corrupted_answers=PROMPTS.answer_ids)
    one, other, both = (rank_edges(tiny, pairs, "eap", direction=way) for way in ("noising", "denoising", "both"))
    np.testing.assert_allclose(both.values, np.abs(one.values) + np.abs(other.values), rtol=1e-12)
    # With the same answer on either side restoring is EAP's own denoising, turned round: the two agree in size.
    own = rank_edges(tiny, pairs, EAP(direction="denoising"), objective="cross-entropy")
    np.testing.assert_allclose(other.values, -own.values, rtol=1e-6, atol=1e-12)
    assert both.direction == "both" and both.provenance["directions"]["denoising"]["scores"] == other.digest


def test_trained_masks_are_averaged(tiny: CompiledModel) -> None:
    drawn = np.random.default_rng(0).normal(0, 4, (2, tiny.universe.n_edges))
    about = {"method": "edge-pruning", "direction": "between", "estimates": "log-alpha"}
    both = both_directions(*(EdgeScores.of(tiny.universe, values, **about) for values in drawn))
    # The published deterministic gate is σ(0.8 α / τ) with τ = 2/3.
    np.testing.assert_allclose(both.values, torch.sigmoid(torch.tensor(drawn) * 0.8 / (2 / 3)).mean(0), rtol=1e-12)
    with pytest.raises(GraphMismatchError, match="estimates"):
        both_directions(both, EdgeScores.of(tiny.universe, drawn[0], **about))


def test_acdc_goes_by_the_sum_of_the_two_rises(tiny: CompiledModel) -> None:
    universe, threshold = tiny.universe, 0.01
    one, other = (by_masked_runs(tiny, pairs, "kl", "counterfactual") for pairs in (PROMPTS, PROMPTS.swapped()))
    kept, rises = naive_acdc(universe, lambda mask: one(mask) + other(mask), threshold)
    alone, _ = naive_acdc(universe, one, threshold)
    found = rank_edges(tiny, PROMPTS, "acdc", {"threshold": threshold}, direction="both", objective="kl")
    assert 3 < kept.sum() < 0.9 * len(kept) and (kept != alone).any()
    np.testing.assert_array_equal(found.values >= threshold, kept)
    np.testing.assert_allclose(found.values[list(rises)], list(rises.values()), atol=1e-9)
    assert found.provenance["settings"]["threshold"] == threshold


@pytest.mark.slow
def test_a_run_by_denoising_is_a_run_of_the_swapped_task(compiled: CompiledModel, task: TaskData) -> None:
    found = discover(compiled, task, direction="denoising", steps=6, **CHOICES)
    again = discover(compiled, task.swapped(), steps=6, **CHOICES)
    assert again.request.direction == "denoising"
    assert found.circuit.edges == again.circuit.edges
    told = found.circuit.provenance
    assert told["direction"] == told["task_options"]["direction"] == "denoising"
    made_again = task_of_provenance(told, compiled.tokenizer)
    assert made_again.data_hash == told["data_hash"] == task.swapped().data_hash != task.data_hash
    measured = evaluate(compiled, found.circuit, task.split("test"), direction="denoising", n_random=0)
    assert found.metrics["splits"]["test"]["circuit"]["kl"] == pytest.approx(measured.metrics["circuit"]["kl"])


@pytest.mark.slow
def test_a_run_by_both_is_as_large(compiled: CompiledModel, task: TaskData, tmp_path: Path) -> None:
    one, other, both = (
        discover(compiled, task, direction=way, steps=6, out=tmp_path / way, **CHOICES)
        for way in ("noising", "denoising", "both")
    )
    expected = both_directions(one.scores, other.scores)
    np.testing.assert_allclose(both.scores.values, expected.values, rtol=1e-12)
    assert both.circuit.n_raw == one.circuit.n_raw == other.circuit.n_raw == round(0.2 * compiled.universe.n_edges)
    assert set(both.curve["direction"]) == {"noising", "denoising"} and len(both.curve) == 12
    assert EdgeScores.load(tmp_path / "both").digest == both.scores.digest
    told = Circuit.load(tmp_path / "both" / "circuit.json").provenance
    assert told["direction"] == "both" and told["selection"]["rule"] == "mean mask"
    assert "direction" not in told["task_options"]
    with pytest.raises(ConfigurationError, match="direction 'both' trains twice"):
        discover(compiled, task, direction="both", steps=6, out=tmp_path / "both", resume=True, **CHOICES)


def test_an_evaluation_in_both_directions(compiled: CompiledModel, task: TaskData) -> None:
    circuit = Circuit.from_edges(compiled.universe, np.arange(0, compiled.universe.n_edges, 2))
    pairs = task.split("test").subset(range(3))
    both = evaluate(compiled, circuit, pairs, direction="both", n_random=1)
    for found, one_way in ((both, pairs), (both.denoising, pairs.swapped())):
        alone = evaluate(compiled, circuit, one_way, n_random=1)
        assert found.metrics["complement"]["kl"] == alone.metrics["complement"]["kl"]
    assert both.metrics["circuit"]["kl"] != both.denoising.metrics["circuit"]["kl"]


def test_what_does_not_go_together_is_refused(compiled: CompiledModel, task: TaskData) -> None:
    with pytest.raises(ConfigurationError, match="'denoising' restores clean values.*got 'zero'"):
        rank_edges(compiled, task, "eap", direction="denoising", ablation="zero")
    with pytest.raises(ConfigurationError, match="'both' restores clean values.*got 'mean'"):
        discover(compiled, task, direction="both", ablation="mean", **CHOICES)
    with pytest.raises(ConfigurationError, match="method 'eap' is set to denoising itself"):
        rank_edges(compiled, task, EAP(direction="denoising"), direction="both")
    with pytest.raises(UnknownNameError, match="'denoising'"):
        rank_edges(compiled, task, "eap", direction="denoise")
    with pytest.raises(ConfigurationError, match="'greedy-nodes' searches for a circuit"):
        rank_edges(compiled, task, "greedy-nodes", direction="both")
    with pytest.raises(ConfigurationError, match="direction 'both' trains twice for every seed"):
        discover_seeds(compiled, task, seeds=(0, 1), direction="both")
    unanswered = replace(task.split("train"), corrupted_answers=None)
    for way in ("denoising", "both"):
        with pytest.raises(ConfigurationError, match="needs right answers.*counterfactuals have no answers"):
            rank_edges(compiled, unanswered, "eap", direction=way)
    assert len(rank_edges(compiled, unanswered.subset([0]), "gate-gradients", direction="both", objective="kl"))
    program = load_model("tracr:reverse")
    with pytest.raises(ConfigurationError, match="got 'zero'"):
        discover(
            compile_model(program, embeddings="split", verify=False),
            load_task("tracr-reverse", program.tokenizer, options={"max_length": 2}), direction="denoising",
        )  # fmt: skip


def test_an_answer_that_is_right_for_both_sides_leaves_no_wrong_one(tiny: CompiledModel) -> None:
    pairs = random_prompts(lengths=[4, 4], wrong=True)
    same = replace(pairs, corrupted_answers=pairs.answer_ids, correct_ids=None)
    with pytest.raises(ConfigurationError, match="sides swapped .* has none; use kl or cross-entropy"):
        rank_edges(tiny, same, "eap", direction="both")
    assert len(rank_edges(tiny, same, "eap", direction="both", objective="cross-entropy")) == tiny.universe.n_edges


def test_the_direction_is_the_runs_and_not_the_methods(compiled: CompiledModel, task: TaskData) -> None:
    found = discover(compiled, task, method="eap", direction="denoising", **CHOICES)
    assert found.request.method is not None and not found.request.method.options
    assert RunRequest.from_dict(found.request.to_dict()).direction == "denoising"
    np.testing.assert_array_equal(found.scores.values, rank_edges(compiled, task.swapped(), "eap").values)
