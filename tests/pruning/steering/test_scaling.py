"""Scalings: their loss by hand, their gradient by differences, and that they steer both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.interventions.applied import intervene
from circuitgraph.interventions.intervention import Intervention
from pruning.prompts.encoding import EncodedPairs
from pruning.steering.judged import judge_intervention, judge_runs
from pruning.steering.scaling import ScalingSettings, learn_scalings
from pruning.steering.two_answers import answer_against_wrong, kl_of_others, other_tokens
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5, 5, 6, 6, 5, 6], wrong=True)


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(dtype=torch.float64), verify=False)


def loss_by_hand(compiled: CompiledModel, changes: np.ndarray, prompts: list[int], faithfulness: float) -> float:
    """The mean over prompts of both directions, written out for one prompt after the other."""
    total = 0.0
    for prompt in prompts:
        batch = PROMPTS.batch(np.array([prompt]))
        own = compiled.logits(batch.clean)[0]
        assert PROMPTS.correct_ids is not None and PROMPTS.wrong_ids is not None
        right, wrong = PROMPTS.correct_ids[prompt].tolist(), PROMPTS.wrong_ids[prompt].tolist()
        rest = [token for token in range(len(own)) if token not in right + wrong]
        theirs = torch.softmax(own[rest], -1)
        for sign in (1.0, -1.0):
            changed = Intervention.of_writers(compiled.universe, sign * changes)
            logits = intervene(compiled, changed).logits(batch.clean)[0]
            difference = float(logits[right].mean() - logits[wrong].mean())
            kl = float((theirs * (theirs / torch.softmax(logits[rest], -1)).log()).sum())
            total += np.log1p(np.exp(-sign * difference)) + faithfulness * kl
    return total / len(prompts)


@pytest.mark.parametrize("faithfulness", [0.0, 0.7])
def test_a_step_goes_down_the_gradient_of_the_loss(compiled: CompiledModel, faithfulness: float) -> None:
    """The first step of Adam is `rate` against each gradient's sign, the gradient taken by differences."""
    rate, n = 0.02, compiled.universe.n_writers
    settings = ScalingSettings(
        steps=1, batch_size=6, learning_rate=rate, faithfulness=faithfulness, sparsity=0.0
    )  # fmt: skip
    learnt = learn_scalings(compiled, PROMPTS, settings, seed=1)
    stepped = np.array([learnt.writers.get(name) or 0.0 for name in compiled.universe.writers])
    assert np.allclose(np.abs(stepped), rate, rtol=1e-3)
    lengths = PROMPTS.lengths
    signs = []
    for length in (5, 6):  # a batch has prompts of one length
        members = np.flatnonzero(lengths == length).tolist()
        small = 1e-4 * np.eye(n)
        up, down = ([loss_by_hand(compiled, s * one, members, faithfulness) for one in small] for s in (1, -1))
        signs.append(np.sign(np.array(up) - np.array(down)))
    assert any((np.sign(stepped) == -sign).all() for sign in signs)


def test_other_tokens_leave_out_right_and_wrong_ones() -> None:
    batch = PROMPTS.batch(np.array([0, 1, 4]))
    others = other_tokens(batch, 29)
    assert PROMPTS.correct_ids is not None and PROMPTS.wrong_ids is not None
    for row, prompt in enumerate((0, 1, 4)):
        named = {*PROMPTS.correct_ids[prompt].tolist(), *PROMPTS.wrong_ids[prompt].tolist()}
        assert set(torch.arange(29)[~others[row]].tolist()) == named


def test_kl_of_others_does_not_see_the_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    own, steered = torch.randn(2, 29, generator=generator), torch.randn(2, 29, generator=generator)
    others = torch.ones(2, 29, dtype=torch.bool)
    others[:, :2] = False
    first = kl_of_others(steered, own, others)
    moved = steered.clone()
    moved[:, :2] += torch.tensor([50.0, -50.0])
    assert torch.allclose(kl_of_others(moved, own, others), first, atol=1e-6)
    theirs, ours = torch.softmax(own[:, 2:], -1), torch.softmax(steered[:, 2:], -1)
    assert torch.allclose(first, (theirs * (theirs / ours).log()).sum(-1), atol=1e-5)
    assert torch.allclose(kl_of_others(own, own, others), torch.zeros(2), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["writers", "edges"])
def test_answers_turn_both_ways(compiled: CompiledModel, unit: str) -> None:
    settings = ScalingSettings(unit=unit, steps=60, batch_size=6, learning_rate=0.1, sparsity=0.0)
    learnt = learn_scalings(compiled, PROMPTS, settings)
    judged = judge_intervention(compiled, learnt, PROMPTS, strengths=(-1, 0, 1)).set_index("strength")
    differences = judged["logit_difference"]
    assert differences[-1] < differences[0] < differences[1]
    assert judged["kl"][0] == pytest.approx(0, abs=1e-6) and judged["same_top"][0] == 1
    if unit == "writers":
        assert None not in learnt.writers.values()
    else:
        assert None in learnt.writers.values()


@pytest.mark.slow
def test_a_price_makes_most_scalings_exactly_0(compiled: CompiledModel) -> None:
    def left(price: float) -> int:
        settings = ScalingSettings(steps=40, batch_size=6, learning_rate=0.05, sparsity=price)
        return len(learn_scalings(compiled, PROMPTS, settings).writers)

    assert left(0.0) == compiled.universe.n_writers > left(0.9)


def test_judged_is_a_row_per_strength_and_equals_one_prompt_at_a_time(compiled: CompiledModel) -> None:
    steer = Intervention.from_writers(compiled.universe, {"m0": 0.5, "a1.h1": -1.0})
    whole = judge_intervention(compiled, steer, PROMPTS, strengths=(0.5, -2.0), batch_size=2)
    assert whole["strength"].tolist() == [0.5, -2.0]
    for row, strength in enumerate((0.5, -2.0)):
        wins, tops, differences = [], [], []
        for prompt in range(len(PROMPTS)):
            batch = PROMPTS.batch(np.array([prompt]))
            own, logits = (
                compiled.logits(batch.clean)[0],
                intervene(compiled, steer, strength=strength).logits(batch.clean)[0],
            )
            assert PROMPTS.correct_ids is not None and PROMPTS.wrong_ids is not None
            differences.append(
                float(logits[PROMPTS.correct_ids[prompt]].mean() - logits[PROMPTS.wrong_ids[prompt]].mean())
            )
            wins.append(differences[-1] > 0)
            tops.append(bool(own.argmax() == logits.argmax()))
        assert whole["right_wins"][row] == pytest.approx(np.mean(wins))
        assert whole["same_top"][row] == pytest.approx(np.mean(tops))
        assert whole["logit_difference"][row] == pytest.approx(np.mean(differences), abs=1e-5)


@pytest.mark.parametrize(
    "setting, said",
    [({"unit": "heads"}, "unit must be one of"), ({"steps": 0}, "steps"), ({"strength": 0}, "strength must be"),
     ({"faithfulness": -1}, "faithfulness"), ({"learning_rate": float("nan")}, "learning_rate")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: dict, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ScalingSettings(**setting)


def test_prompts_without_wrong_answers_are_refused(compiled: CompiledModel) -> None:
    with pytest.raises(ConfigurationError, match="needs wrong answers"):
        learn_scalings(compiled, random_prompts(lengths=[5, 5]))
    with pytest.raises(ConfigurationError, match="needs wrong answers"):
        judge_intervention(compiled, Intervention.from_writers(compiled.universe, {}), random_prompts(lengths=[5, 5]))


def test_no_prompts_are_refused(compiled: CompiledModel) -> None:
    with pytest.raises(ConfigurationError, match="there are no prompts to steer by"):
        learn_scalings(compiled, PROMPTS.subset([]))


def test_outputs_that_are_not_finite_are_no_answers(compiled: CompiledModel) -> None:
    def broken(batch, _values):
        return compiled.logits(batch) * float("nan")

    judged = judge_runs(compiled, [lambda batch, _: compiled.logits(batch), broken], PROMPTS, (0, 1))
    assert judged.iloc[0].notna().all() and (judged.iloc[0][["kl", "kl_others"]] >= 0).all()
    assert judged.iloc[1, 1:].isna().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    batch, generator = PROMPTS.batch(np.arange(3)), torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(3, 29, generator=generator).to(dtype) for _ in range(2))
    found = answer_against_wrong(1.0, faithfulness=1.0)(logits, teacher, batch)
    assert float(found) == pytest.approx(
        float(answer_against_wrong(1.0, faithfulness=1.0)(logits.float(), teacher.float(), batch)), rel=1e-6
    )


def test_the_objective_is_refused_a_cut_vocabulary() -> None:
    pairs: EncodedPairs = PROMPTS
    batch = pairs.batch(np.array([0, 1]))
    logits = torch.zeros(2, 29)
    assert float(answer_against_wrong(1.0, faithfulness=1.0)(logits, logits, batch)) == pytest.approx(np.log(2))
