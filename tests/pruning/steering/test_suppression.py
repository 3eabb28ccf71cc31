"""The search for heads to cut, against trying every set of heads."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.interventions.applied import intervene
from circuitgraph.interventions.intervention import Intervention
from pruning.steering.suppression import SuppressionSettings, find_suppression
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5] * 6, wrong=True)
KEEP = 0.02


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


def loss(compiled: CompiledModel, off: list[str]) -> float:
    """Written out: the two-way cross-entropy of all prompts, less what the heads that are kept are worth."""
    heads = [name for name in compiled.universe.writers if ".h" in name]
    batch = PROMPTS.batch(np.arange(len(PROMPTS)))
    cut = Intervention.from_writers(compiled.universe, dict.fromkeys(off, -1.0))
    logits = intervene(compiled, cut).logits(batch.clean)
    total = 0.0
    assert PROMPTS.correct_ids is not None and PROMPTS.wrong_ids is not None
    for prompt in range(len(PROMPTS)):
        right, wrong = PROMPTS.correct_ids[prompt], PROMPTS.wrong_ids[prompt]
        difference = logits[prompt][right].mean() - logits[prompt][wrong].mean()
        total += float(torch.log1p(torch.exp(-difference)))
    return total / len(PROMPTS) - KEEP * (1 - len(off) / len(heads))


@pytest.mark.slow
def test_the_best_of_all_sets_of_heads_is_found(compiled: CompiledModel) -> None:
    heads = [name for name in compiled.universe.writers if ".h" in name]
    every = {
        tuple(name for name, there in zip(heads, kept, strict=True) if not there): 0.0
        for kept in product((True, False), repeat=len(heads))
    }
    for off in every:
        every[off] = loss(compiled, list(off))
    best = min(every, key=lambda off: every[off])
    assert 0 < len(best) < len(heads)  # else the search would have nothing to find
    settings = SuppressionSettings(steps=150, batch_size=6, keep=KEEP, learning_rate=0.3, start=1.0)
    found = find_suppression(compiled, PROMPTS, PROMPTS, settings)
    assert found.loss == pytest.approx(loss(compiled, list(found.heads)), abs=1e-5)
    assert every[tuple(name for name in heads if name in found.heads)] <= sorted(every.values())[2]


def test_without_a_reason_to_cut_all_heads_stay(compiled: CompiledModel) -> None:
    found = find_suppression(compiled, PROMPTS, PROMPTS, SuppressionSettings(steps=5, batch_size=6, keep=1000.0))
    assert found.heads == () and len(found.intervention) == 0
    assert len(found.numbers) == 6


def test_heads_are_cut_in_the_intervention(compiled: CompiledModel) -> None:
    settings = SuppressionSettings(steps=8, batch_size=6, keep=0.0, learning_rate=1.0, start=0.1, judged_every=1)
    found = find_suppression(compiled, PROMPTS, PROMPTS, settings)
    assert found.intervention.writers == dict.fromkeys(
        [name for name in compiled.universe.writers if name in found.heads], -1.0
    )
    assert found.loss <= loss(compiled, []) + KEEP + 1e-6  # at worst the model as it is


def test_bad_input_is_refused(compiled: CompiledModel) -> None:
    with pytest.raises(ConfigurationError, match="needs wrong answers"):
        find_suppression(compiled, PROMPTS, random_prompts(lengths=[5]))
    with pytest.raises(ConfigurationError, match="there are no validation prompts"):
        find_suppression(compiled, PROMPTS, PROMPTS.subset([]))
    for name in ("steps", "judged_every"):
        with pytest.raises(ConfigurationError, match=f"{name} must be at least 1; got 0"):
            SuppressionSettings(**{name: 0})
