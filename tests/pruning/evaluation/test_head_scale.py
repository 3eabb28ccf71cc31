"""Circuits measured with norms behind heads taken anew: which way was taken is said, and figures are of that way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.normed_anew import run_normed_anew, said_before_norms
from pruning.evaluation.evaluate import evaluate
from pruning.evaluation.masks import evaluate_masks
from tests.circuitgraph.architectures.battery.case import VOCAB, gates_of, made
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[6, 5, 6], n_asked=(1, 2), n_tokens=VOCAB)


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_figures_are_those_of_norms_taken_anew(ablation: str) -> None:
    own = made("gemma2").compiled
    draws = gates_of(own.universe.n_edges, cut=0.5).bool().numpy()
    circuit = Circuit.from_edges(own.universe, draws, ablation=ablation)
    expected = []
    with torch.no_grad():
        for prompt in range(len(PROMPTS)):
            batch = PROMPTS.batch([prompt])
            ablated = None if ablation == "zero" else said_before_norms(own.runnable, batch.corrupted)
            gates = torch.from_numpy(circuit.mask).float()
            ours = run_normed_anew(own.runnable, gates, batch.clean, ablated).log_softmax(-1)
            full = own.logits(batch.clean).log_softmax(-1)
            expected.append(float((full.exp() * (full - ours)).sum(-1).mean()))
    anew = evaluate(own, circuit, PROMPTS, n_random=0, head_scale="anew")
    shared = evaluate(own, circuit, PROMPTS, n_random=0)
    assert (anew.head_scale, shared.head_scale) == ("anew", "shared")
    assert anew.metrics["circuit"]["kl"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert abs(anew.metrics["circuit"]["kl"] / shared.metrics["circuit"]["kl"] - 1) > 0.01
    assert anew.metrics["empty"]["kl"] == pytest.approx(shared.metrics["empty"]["kl"], rel=1e-3)


def test_what_makes_no_sense_is_refused() -> None:
    gemma, llama = made("gemma2").compiled, made("llama").compiled
    everything = {"all": np.ones(llama.universe.n_edges, dtype=bool)}
    with pytest.raises(ConfigurationError, match="head_scale='anew' is for norms behind heads, and llama models have"):
        evaluate_masks(llama, everything, PROMPTS, ablation="zero", head_scale="anew")
    everything = {"all": np.ones(gemma.universe.n_edges, dtype=bool)}
    with pytest.raises(ConfigurationError, match="takes counterfactual or zero ablation; got 'mean'"):
        evaluate_masks(gemma, everything, PROMPTS, ablation="mean", head_scale="anew")
    with pytest.raises(UnknownNameError, match="unknown head_scale 'own'; valid: shared, anew"):
        evaluate_masks(gemma, everything, PROMPTS, ablation="zero", head_scale="own")
