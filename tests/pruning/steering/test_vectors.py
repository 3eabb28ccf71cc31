"""Steering vectors: their first step against differences, and that they steer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.patched_run import Patch, patched_run
from pruning.steering.scaling import ScalingSettings
from pruning.steering.vectors import judge_vectors, learn_vectors
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5] * 4, wrong=True)


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(dtype=torch.float64), verify=False)


def loss(compiled: CompiledModel, vector: np.ndarray) -> float:
    """Both directions, without the other tokens, written out."""
    batch, total = PROMPTS.batch(np.arange(4)), 0.0
    assert PROMPTS.correct_ids is not None and PROMPTS.wrong_ids is not None
    for sign in (1.0, -1.0):
        logits = patched_run(compiled.runnable, batch.clean, Patch(added={"m0": torch.tensor(sign * vector)}))
        for prompt in range(4):
            right, wrong = PROMPTS.correct_ids[prompt], PROMPTS.wrong_ids[prompt]
            total += float(
                torch.log1p(torch.exp(-sign * (logits[prompt][right].mean() - logits[prompt][wrong].mean())))
            )
    return total / 4


def test_a_step_goes_down_the_gradient(compiled: CompiledModel) -> None:
    settings = ScalingSettings(steps=1, batch_size=4, learning_rate=0.01, faithfulness=0.0, sparsity=0.0)
    stepped = learn_vectors(compiled, PROMPTS, settings, writers=["m0"])["m0"].numpy()
    small = 1e-4 * np.eye(len(stepped))
    slopes = np.array([loss(compiled, one) - loss(compiled, -one) for one in small])
    assert (np.sign(stepped) == -np.sign(slopes)).all()


@pytest.mark.slow
def test_they_steer_both_ways_and_short_ones_vanish(compiled: CompiledModel) -> None:
    settings = ScalingSettings(steps=40, batch_size=4, learning_rate=0.05, sparsity=0.0)
    vectors = learn_vectors(compiled, PROMPTS, settings)
    assert set(vectors) == set(compiled.universe.writers)
    differences = judge_vectors(compiled, vectors, PROMPTS, strengths=(-1, 0, 1))["logit_difference"]
    assert differences[0] < differences[1] < differences[2]
    pressed = ScalingSettings(steps=40, batch_size=4, learning_rate=0.05, sparsity=0.97)
    assert len(learn_vectors(compiled, PROMPTS, pressed)) < len(vectors)


def test_nothing_leaves_zero_against_a_pull_as_strong_as_a_step(compiled: CompiledModel) -> None:
    settings = ScalingSettings(steps=3, batch_size=4, learning_rate=0.05, sparsity=1.0)
    assert learn_vectors(compiled, PROMPTS, settings) == {}


def test_bad_input_is_refused(compiled: CompiledModel) -> None:
    with pytest.raises(UnknownNameError, match="unknown writer 'm9'"):
        learn_vectors(compiled, PROMPTS, writers=["m9"])
    with pytest.raises(ConfigurationError, match="needs wrong answers"):
        learn_vectors(compiled, random_prompts(lengths=[5]))
