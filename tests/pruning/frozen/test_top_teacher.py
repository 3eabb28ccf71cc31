"""The teacher's likeliest tokens and one bucket for the rest, against hand calculation and the whole KL."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitgraph.errors import ConfigurationError
from pruning.execution.objectives import OBJECTIVES, TAKES_TOP_K, kl_divergence, objective_named
from pruning.frozen.top_teacher import TopTeacher
from tests.pruning.prompts.small_prompts import random_prompts


def test_kl_by_hand() -> None:
    """Teacher ½ ¼ ⅛ ⅛ and circuit ¼ ¼ ¼ ¼; with two tokens kept the rest is ¼ against ½."""
    teacher = TopTeacher.of(torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]], dtype=torch.float64).log() + 3, 2)
    assert teacher.ids.tolist() == [[0, 1]] and teacher.ids.dtype == torch.int32
    assert teacher.log_rest.exp().tolist() == pytest.approx([1 / 4])
    found = teacher.kl(torch.full((1, 4), -7.0, dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.5 * math.log(2) + 0.25 * math.log(1) + 0.25 * math.log(1 / 2)])


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), scale=st.floats(0.1, 20))
def test_against_the_definition(seed: int, k: int, scale: float) -> None:
    """The bucketed KL from probabilities, written out; never above the whole KL, nor below 0."""
    generator = torch.Generator().manual_seed(seed)
    full, circuit = scale * torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    p, q = full.softmax(-1), circuit.softmax(-1)
    found = TopTeacher.of(full, k).kl(circuit)
    for row in range(3):
        top = sorted(range(7), key=lambda i: -float(p[row, i]))[:k]
        rest = [i for i in range(7) if i not in top]
        expected = sum(float(p[row, i] * (p[row, i] / q[row, i]).log()) for i in top)
        mass, ours = float(p[row, rest].sum()), float(q[row, rest].sum())
        expected += mass * math.log(mass / ours)
        assert float(found[row]) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    whole = kl_divergence(circuit, full)
    assert (found <= whole + 1e-9).all() and (found >= -1e-9).all()


def test_a_rest_of_one_token_is_the_whole_vocabulary() -> None:
    full, circuit = torch.randn(2, 5, 9, dtype=torch.float64)
    circuit.requires_grad_()
    kept, whole = TopTeacher.of(full, 8).kl(circuit), kl_divergence(circuit, full)
    torch.testing.assert_close(kept, whole, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(loss.sum(), circuit, retain_graph=True)[0] for loss in (kept, whole))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_gradient_by_differences() -> None:
    teacher = TopTeacher.of(torch.randn(3, 8, dtype=torch.float64), 3)
    circuit = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(teacher.kl, circuit)


def test_a_teacher_that_is_certain_gives_no_nan() -> None:
    full = torch.zeros(1, 6)
    full[0, 2] = 1e4
    circuit = torch.randn(1, 6, requires_grad=True)
    loss = TopTeacher.of(full, 1).kl(circuit).sum()
    (gradient,) = torch.autograd.grad(loss, circuit)
    torch.testing.assert_close(loss, -circuit.log_softmax(-1)[0, 2])
    assert bool(gradient.isfinite().all())


def test_half_precision_is_summed_in_single() -> None:
    full = torch.randn(2, 50).bfloat16()
    teacher = TopTeacher.of(full, 5)
    assert teacher.log_probabilities.dtype == teacher.log_rest.dtype == torch.float32
    torch.testing.assert_close(teacher.log_probabilities, full.float().log_softmax(-1).topk(5).values)


def test_objectives() -> None:
    batch = random_prompts(lengths=[3, 4], n_asked=(1, 2), wrong=True).batch([0, 1])
    logits, full = torch.randn(2, 3, 29)
    teacher = TopTeacher.of(full, 4)
    each = teacher.kl(logits)
    expected = (each[0] + (each[1] + each[2]) / 2) / 2
    torch.testing.assert_close(objective_named("kl")(logits, teacher, batch), expected)
    assert objective_named("cross-entropy")(logits, teacher, batch) == objective_named("cross-entropy")(
        logits, full, batch
    )
    for name in set(OBJECTIVES) - set(TAKES_TOP_K):
        with pytest.raises(ConfigurationError, match="whole vocabulary.*teacher_top_k=4"):
            objective_named(name)(logits, teacher, batch)
