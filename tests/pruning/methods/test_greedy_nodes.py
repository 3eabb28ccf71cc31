"""Greedy nodes against a plain loop of whole masked runs, and against the true nodes of programs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from pruning.execution.probe import Probe
from pruning.methods.greedy_nodes import GreedyNodes, greedy_nodes
from pruning.tasks import load_task
from tests.oracles.cases import ModelMakers
from tests.pruning.methods.test_acdc import by_masked_runs
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

PROMPTS = random_prompts(lengths=[5, 4, 5], n_asked=(1, 2), wrong=True)


def naive(universe, objective, threshold: float, *, mlps: bool = True):
    """The published loop: the edges that are left `[edge]`, and the rise of each writer by its name, in the order."""
    writers = np.array(universe.writers)[universe.endpoints(np.arange(universe.n_edges))[0]]
    layer_of = {name: int(re.match(r"[am](\d+)", name)[1]) for name in universe.writers if re.match(r"[am]\d", name)}
    kept, rises = np.ones(universe.n_edges, dtype=bool), {}
    current = objective(kept)
    for layer in sorted(set(layer_of.values()), reverse=True):
        heads = [name for name in universe.writers if layer_of.get(name) == layer and "h" in name]
        for name in [*heads, *([f"m{layer}"] if mlps else [])]:
            trial = kept & (writers != name)
            rises[name] = objective(trial) - current
            if rises[name] < threshold:
                kept, current = trial, current + rises[name]
    return kept, rises


@pytest.mark.parametrize(
    ("case", "objective", "ablation", "threshold", "mlps"),
    [
        ("gpt2", "kl", "zero", 0.01, True),
        pytest.param("gpt2", "kl", "counterfactual", 0.01, False, marks=pytest.mark.slow),
        pytest.param("llama-gqa", "negative-logit-diff", "zero", 0.02, True, marks=pytest.mark.slow),
    ],
)
def test_the_circuit_of_the_plain_loop(tiny_gpt2, tiny_llama, case, objective, ablation, threshold, mlps):
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    universe = compiled.universe
    of = by_masked_runs(compiled, PROMPTS, objective, ablation)
    kept, rises = naive(universe, of, threshold, mlps=mlps)
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective=objective, ablation=ablation)
    state = GlobalRandomState()
    found = GreedyNodes(threshold=threshold, mlps=mlps).search(probe)
    state.assert_untouched()
    assert 0 < (~kept).sum() < len(kept)
    np.testing.assert_array_equal(found.kept, kept)
    ours = greedy_nodes(probe, GreedyNodes(threshold=threshold, mlps=mlps)).rises
    tried = {universe.writers[place]: ours[place] for place in np.flatnonzero(np.isfinite(ours))}
    assert tried == pytest.approx(rises, abs=2e-6) and len(tried) == found.about["n_tried"]
    assert (found.scores >= threshold).tolist() == kept.tolist() and np.isfinite(found.scores).all()


@pytest.mark.parametrize(("program", "objective"), [("xproportion", "mse"), ("reverse", "kl")])
def test_a_threshold_near_zero_keeps_exactly_a_programs_nodes(program, objective):
    loaded = load_model(f"tracr:{program}")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    pairs = load_task(f"tracr-{program}", loaded.tokenizer, options={"max_length": 4}).split("train")
    probe = Probe(compiled=compiled, pairs=pairs, objective=objective, ablation="zero")
    found = GreedyNodes(threshold=1e-6).search(probe)
    circuit = Circuit.from_edges(compiled.universe, found.kept, ablation="zero")
    truth = Circuit.from_edges(compiled.universe, ground_truth_edges(program), ablation="zero")
    assert (circuit.heads, circuit.mlps) == (truth.heads, truth.mlps)
    assert found.about["n_kept"] == len(truth.heads) + len(truth.mlps) < found.about["n_tried"]


def test_what_runs_at_once_does_not_matter(tiny_gpt2, tiny_llama, monkeypatch):
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="kl", ablation="zero")
    together = greedy_nodes(probe, GreedyNodes(threshold=0.01)).rises
    monkeypatch.setattr("pruning.methods.greedy_nodes._CELLS_AT_ONCE", {"cpu": 1})
    np.testing.assert_allclose(greedy_nodes(probe, GreedyNodes(threshold=0.01)).rises, together, atol=1e-9)


def test_it_goes_by_a_threshold_above_zero_and_by_nothing_else():
    for threshold in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigurationError, match="threshold must be a number above 0"):
            GreedyNodes(threshold=threshold)
    with pytest.raises(ConfigurationError, match=r"goes by its threshold \(0.02\), and cannot be asked for 50 edges"):
        GreedyNodes().for_edges(50)
