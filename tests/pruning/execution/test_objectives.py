"""Objectives on logits small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import e, isnan, log

import pytest
import torch
from torch import Tensor

from circuitgraph.batch import PairBatch, TokenBatch
from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.execution.objectives import (
    OBJECTIVES,
    check_objective,
    first_asked,
    kl_divergence,
    logit_difference,
    objective_named,
    per_prompt_mean,
    set_logit,
)
from pruning.frozen.top_teacher import TopTeacher
from tests.pruning.prompts.small_prompts import random_prompts

# Two prompts of three tokens; the first is asked at two positions, the second at one.
PROMPT = torch.tensor([0, 0, 1])


def batch(**answers: Tensor | None) -> PairBatch:
    tokens = TokenBatch(
        input_ids=torch.zeros(2, 3, dtype=torch.long),
        attention_mask=torch.ones(2, 3, dtype=torch.long),
        predict_index=torch.tensor([1, 2, 5]),
        predict_prompt=PROMPT,
    )
    none = dict.fromkeys(("answer_ids", "answer_values", "correct_ids", "wrong_ids"))
    return PairBatch(clean=tokens, corrupted=tokens, index=torch.tensor([0, 1]), **{**none, **answers})


def logs(rows: list[list[float]], shift: float = 0.0) -> Tensor:
    """Logits of given probabilities; a shift of all changes nothing."""
    return torch.tensor(rows, dtype=torch.float64).log() + shift


TEACHER = logs([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1.0, 1e-300]], shift=3.0)
CIRCUIT = logs([[1 / 4, 3 / 4], [1 / 4, 3 / 4], [1 / e**2, 1 - 1 / e**2]], shift=-1.0)
# ½ ln 2 + ½ ln ⅔ = ½ ln 4/3; nothing; ln e² = 2.
KL = [0.5 * log(4 / 3), 0.0, 2.0]


def test_kl_of_each_position_in_nats() -> None:
    assert kl_divergence(CIRCUIT, TEACHER).tolist() == pytest.approx(KL, abs=1e-12)


def test_kl_goes_over_answer_tokens_and_then_over_prompts() -> None:
    # Prompt 0: ¼ ln 4/3, prompt 1: 2. A mean over all three tokens would give 0.71.
    expected = ((KL[0] + KL[1]) / 2 + KL[2]) / 2
    assert objective_named("kl")(CIRCUIT, TEACHER, batch()).item() == pytest.approx(expected, abs=1e-12)


def test_kl_is_of_the_teacher_to_the_circuit() -> None:
    teacher, circuit = logs([[0.9, 0.1]] * 3), logs([[0.5, 0.5]] * 3)
    there = 0.9 * log(1.8) + 0.1 * log(0.2)
    assert objective_named("kl")(circuit, teacher, batch()).item() == pytest.approx(there, abs=1e-12)
    assert objective_named("kl")(teacher, circuit, batch()).item() == pytest.approx(-0.5 * log(0.36), abs=1e-12)


def test_kl_of_narrow_formats_is_worked_out_in_float32() -> None:
    found = kl_divergence(CIRCUIT.bfloat16(), CIRCUIT.bfloat16())
    assert found.dtype == torch.float32 and found.tolist() == [0, 0, 0]


def test_kl_top1_adds_a_quarter_of_the_cross_entropy_of_the_full_models_top_token() -> None:
    # The full model's top tokens are the first (1/2 twice: the first of equals), the second and the first, to
    # which the circuit gives 1/4, 3/4 and 1/e².
    cross_entropy = [log(4), log(4 / 3), 2.0]
    each = [kl + ce / 4 for kl, ce in zip(KL, cross_entropy, strict=True)]
    expected = ((each[0] + each[1]) / 2 + each[2]) / 2
    objective = objective_named("kl-top1")
    assert objective(CIRCUIT, TEACHER, batch()).item() == pytest.approx(expected, abs=1e-12)
    top = TopTeacher.of(TEACHER, 1)  # the likeliest and the other one: nothing is lost of two tokens
    assert objective(CIRCUIT, top, batch()).item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ConfigurationError, match="one number"):
        objective(CIRCUIT[:, :1], TEACHER[:, :1], batch())


def test_means_of_prompts_of_unequal_numbers() -> None:
    values = torch.tensor([1.0, 3.0, 10.0])
    assert per_prompt_mean(values, PROMPT, 2).tolist() == [2, 10]
    assert first_asked(batch()).tolist() == [0, 2]


def test_set_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 6.0], [5.0, 7.0, -1.0]])
    assert set_logit(logits, torch.tensor([[0, 2], [1, -1]])).tolist() == [3.5, 7.0]


def test_logit_difference_of_sets_at_the_first_asked_position() -> None:
    logits = torch.tensor([[1.0, 2.0, 6.0, 0.0], [90.0, 90.0, 90.0, 90.0], [5.0, 7.0, -1.0, 2.0]])
    pairs = batch(
        correct_ids=torch.tensor([[0, 2], [1, -1]]),  # (1 + 6) / 2; 7
        wrong_ids=torch.tensor([[1, -1], [0, 3]]),  # 2; (5 + 2) / 2
    )
    assert logit_difference(logits, pairs).tolist() == [1.5, 3.5]
    teacher = logits.clone()
    teacher[0, 1] += 3  # its difference is −1.5, 3 below the circuit's
    teacher[2, 1] += 1  # 4.5, 1 above
    assert objective_named("logit-diff")(logits, teacher, pairs).item() == pytest.approx((9 + 1) / 2)
    assert objective_named("logit-diff")(logits, logits + 5, pairs).item() == 0


def test_logit_difference_without_wrong_answers() -> None:
    with pytest.raises(ConfigurationError, match="wrong answers"):
        objective_named("logit-diff")(torch.zeros(3, 4), torch.zeros(3, 4), batch())


def test_a_prompt_without_wrong_answers_has_no_logit_difference() -> None:
    """Its bare logit, 6, is no difference; an empty set had the mean logit 0."""
    logits = torch.tensor([[1.0, 2.0, 6.0, 0.0], [90.0, 90.0, 90.0, 90.0], [5.0, 7.0, -1.0, 2.0]])
    pairs = batch(correct_ids=torch.tensor([[2], [1]]), wrong_ids=torch.tensor([[-1, -1], [0, 3]]))
    first, second = logit_difference(logits, pairs).tolist()
    assert isnan(first) and second == 3.5


def test_what_an_objective_cannot_compare_is_refused_before_any_work() -> None:
    pairs = random_prompts(lengths=[3, 4, 3, 4, 5], wrong=True)
    wrong = pairs.wrong_ids
    assert wrong is not None
    some = replace(pairs, wrong_ids=(wrong[0], wrong[1][:0], wrong[2], wrong[3][:0], wrong[4]))
    check_objective("kl", some)
    check_objective("logit-diff", pairs)
    with pytest.raises(
        ConfigurationError, match=r"2 of 5 prompts of my file .* prompts 1 \('prompt 1'\), 3 \('prompt 3'"
    ):
        check_objective("logit-diff", some, "my file")
    with pytest.raises(ConfigurationError, match="my file has none"):
        check_objective("logit-diff", replace(pairs, wrong_ids=None), "my file")
    with pytest.raises(ConfigurationError, match="answers are tokens; use kl"):
        check_objective("mse", pairs)
    with pytest.raises(UnknownNameError, match="logit-diff"):
        check_objective("logit-dif", pairs)


def test_cross_entropy_of_the_right_answers() -> None:
    pairs = batch(answer_ids=torch.tensor([0, 1, 0]))
    # −ln ¼ and −ln ¾ for prompt 0, 2 for prompt 1; the teacher has no say.
    expected = ((-log(1 / 4) - log(3 / 4)) / 2 + 2) / 2
    for teacher in (TEACHER, CIRCUIT):
        assert objective_named("cross-entropy")(CIRCUIT, teacher, pairs).item() == pytest.approx(expected)
    with pytest.raises(ConfigurationError, match="numbers"):
        objective_named("cross-entropy")(CIRCUIT, TEACHER, batch())


def test_mse_over_positions_then_prompts() -> None:
    circuit, teacher = torch.tensor([[0.5], [1.0], [0.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    found = objective_named("mse")(circuit, teacher, batch(answer_values=torch.zeros(3)))
    assert found.item() == pytest.approx((0.25 / 2 + 4) / 2)


def test_position_kl_is_a_softmax_over_positions() -> None:
    # Prompt 0: teacher (½, ½), circuit (¼, ¾) over its two positions; prompt 1 has one position, so 1 against 1.
    teacher = torch.tensor([[2.0], [2.0], [-7.0]], dtype=torch.float64)
    circuit = torch.tensor([[log(1.0)], [log(3.0)], [5.0]], dtype=torch.float64)
    found = objective_named("position-kl")(circuit, teacher, batch(answer_values=torch.zeros(3)))
    assert found.item() == pytest.approx((0.5 * log(4 / 3) + 0) / 2, abs=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients_by_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    numeric = name in ("mse", "position-kl")
    circuit, teacher = (torch.randn(3, 1 if numeric else 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs = batch(
        answer_ids=torch.tensor([0, 1, 4]),
        correct_ids=torch.tensor([[0, 2], [1, -1]]),
        wrong_ids=torch.tensor([[1, -1], [0, 3]]),
    )
    given = circuit.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective_named(name)(given, teacher, pairs), given)
    assert bool((gradient != 0).any())
    step = 1e-2 if name.endswith("logit-diff") else 1e-5  # logit differences are taken in float32
    for row in range(3):
        for column in range(circuit.shape[1]):
            moved = torch.zeros_like(circuit)
            moved[row, column] = step
            sides = [float(objective_named(name)(circuit + sign * moved, teacher, pairs)) for sign in (1, -1)]
            assert gradient[row, column].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-4)


def test_an_unknown_objective() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'kl'"):
        objective_named("kll")


def test_a_kl_of_single_numbers_is_refused() -> None:
    """A softmax over one number is always 1, so its KL would be 0 whatever the circuit says."""
    one = torch.zeros(3, 1)
    with pytest.raises(ConfigurationError, match="use 'mse'"):
        objective_named("kl")(one, one, batch())


def test_the_negative_logit_difference_asks_nothing_of_the_full_model() -> None:
    """Right minus wrong by hand: prompt 0 has right {0, 2} and wrong {1}, prompt 1 right {1} and wrong {0, 3}."""
    circuit = torch.tensor([[4.0, 1.0, 2.0, 0.0, 0.0], [9.0] * 5, [1.0, 5.0, 0.0, 2.0, 0.0]])
    pairs = batch(
        answer_ids=torch.tensor([0, 1, 4]),
        correct_ids=torch.tensor([[0, 2], [1, -1]]),
        wrong_ids=torch.tensor([[1, -1], [0, 3]]),
    )
    expected = -((4 + 2) / 2 - 1 + 5 - (1 + 2) / 2) / 2
    for teacher in (torch.zeros(3, 5), circuit):
        assert objective_named("negative-logit-diff")(circuit, teacher, pairs).item() == pytest.approx(expected)
