"""Figures of a circuit: by hand where they can be counted, else from plain runs of the model."""

from __future__ import annotations

import math
from dataclasses import replace
from math import e, log

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from circuitgraph.batch import PairBatch, TokenBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError, UndefinedWarning
from circuitgraph.models import load_model
from pruning.evaluation.evaluate import evaluate
from pruning.evaluation.intervals import intervals_of
from pruning.evaluation.masks import evaluate_masks
from pruning.evaluation.measured import Measured
from pruning.evaluation.random_circuits import random_circuit
from pruning.evaluation.sampled import sampled_prompts
from pruning.evaluation.scores import kendall_tau, score_prompts
from pruning.evaluation.tables import flat_row, metrics_table
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks import load_task
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

LENGTHS = [5, 3, 5, 4, 3, 5, 4, 5]


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    # With this seed its first choice changes from prompt to prompt.
    return compile_model(tiny_gpt2(seed=2), verify=False)


def circuit_of(compiled: CompiledModel, share: float, *, seed: int = 0, ablation: str = "counterfactual") -> Circuit:
    kept = np.random.default_rng(seed).random(compiled.universe.n_edges) < share
    return Circuit.from_edges(compiled.universe, kept, ablation=ablation)


def hugging_face(compiled: CompiledModel, ids: np.ndarray) -> Tensor:
    with torch.no_grad():
        return compiled.model(torch.from_numpy(ids)[None]).logits[0]


def figures(row: dict) -> dict[str, float | int | None]:
    """Means alone: without sizes, intervals and differences."""
    return {name: value for name, value in flat_row(row).items() if not name.startswith("n_edges")}


def plain_kl(teacher: Tensor, other: Tensor) -> float:
    teacher, other = teacher.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((teacher.exp() * (teacher - other)).sum(-1).mean())


# ---------------------------------------------------------------- one batch, by hand


def batch(prompt: list[int], **answers: Tensor | None) -> PairBatch:
    n, asked = max(prompt) + 1, len(prompt)
    tokens = TokenBatch(
        input_ids=torch.zeros(n, asked, dtype=torch.long),
        attention_mask=torch.ones(n, asked, dtype=torch.long),
        predict_index=torch.arange(asked),
        predict_prompt=torch.tensor(prompt),
    )
    none = dict.fromkeys(("answer_ids", "answer_values", "correct_ids", "wrong_ids"))
    return PairBatch(clean=tokens, corrupted=tokens, index=torch.arange(n), **{**none, **answers})


# Three prompts, asked at two, one and one positions; the top tokens are 0 1 | 2 | 1 and the teacher's 0 0 | 2 | 1.
LOGITS = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0], [0, 3.0, 0]])
TEACHER = torch.tensor([[2.0, 0, 0], [4.0, 3.0, 0], [0, 0, 9.0], [0, 1.0, 0]])
PROMPT = [0, 0, 1, 2]


def test_exact_match_needs_every_answer_token() -> None:
    assert score_prompts(LOGITS, TEACHER, batch(PROMPT))["exact_match"].tolist() == [False, True, True]
    assert "accuracy" not in score_prompts(LOGITS, TEACHER, batch(PROMPT))


def test_accuracy_by_tokens_needs_every_answer_token() -> None:
    scores = score_prompts(LOGITS, TEACHER, batch(PROMPT, answer_ids=torch.tensor([0, 1, 1, 1])))
    assert scores["accuracy"].tolist() == [True, False, True]
    scores = score_prompts(LOGITS, TEACHER, batch(PROMPT, answer_ids=torch.tensor([0, 2, 2, 0])))
    assert scores["accuracy"].tolist() == [False, True, False]
    assert "logit_diff" not in scores


def test_accuracy_by_sets_adds_their_probabilities_up() -> None:
    """The right tokens together against the wrong ones together, not each by itself, at the first asked position."""
    pairs = batch(
        PROMPT,
        answer_ids=torch.zeros(4, dtype=torch.long),
        correct_ids=torch.tensor([[1, 2], [1, -1], [1, -1]]),
        wrong_ids=torch.tensor([[0, -1], [0, 2], [0, 2]]),
    )
    logits = torch.tensor([[log(3.0), log(2.0), log(2.0)], [9.0, 0, 0], [0, log(1.9), 0], [0, log(2.1), 0]])
    scores = score_prompts(logits, TEACHER, pairs)
    assert scores["accuracy"].tolist() == [True, False, True]
    # Mean logit of a set less mean logit of the other: ln 2 − ln 3; ln 1.9 − 0; ln 2.1 − 0.
    assert scores["logit_diff"].tolist() == pytest.approx([log(2 / 3), log(1.9), log(2.1)], abs=1e-6)
    # Of 3 + 2 + 2 parts 4 are right and 3 wrong; of 1 + 1.9 + 1 they are 1.9 and 2; of 1 + 2.1 + 1, 2.1 and 2.
    assert scores["prob_diff"].tolist() == pytest.approx([1 / 7, -0.1 / 3.9, 0.1 / 4.1], abs=1e-6)


def test_the_order_of_listed_answers_as_scipy_ranks_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randint(0, 6, (20, 30), generator=generator).float() for _ in range(2))  # with ties
    listed = torch.rand(20, 30, generator=generator).argsort(-1)[:, :12]
    listed[torch.rand(20, 12, generator=generator) < 0.5] = -1
    found = kendall_tau(logits, teacher, listed)
    for row, tau in enumerate(found.tolist()):
        tokens = listed[row][listed[row] >= 0]
        if len(tokens) < 3:
            assert math.isnan(tau)
        else:
            assert tau == pytest.approx(kendalltau(logits[row, tokens], teacher[row, tokens]).statistic, nan_ok=True)


def test_prompts_that_list_two_answers_have_no_order() -> None:
    pairs = batch([0, 1], answer_ids=torch.tensor([0, 0]), wrong_ids=torch.tensor([[1, -1], [1, 2]]))
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    teacher = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    # Of three pairs two are ordered alike and one is not.
    assert score_prompts(logits, teacher, pairs)["kendall_tau"].tolist() == pytest.approx(
        [math.nan, 1 / 3], nan_ok=True
    )
    two = replace(pairs, wrong_ids=pairs.wrong_ids[:, :1])
    assert "kendall_tau" not in score_prompts(logits, teacher, two)


def test_each_prompt_is_measured_by_the_answers_that_it_has() -> None:
    """Of three prompts the second has no wrong answer: the whole vocabulary is what its right one is chosen among."""
    pairs = batch(
        [0, 1, 2],
        answer_ids=torch.tensor([0, 0, 0]),
        correct_ids=torch.tensor([[0], [0], [0]]),
        wrong_ids=torch.tensor([[1], [-1], [1]]),
    )
    logits = torch.tensor([[2.0, 1.0, 5.0], [2.0, 1.0, 5.0], [0.5, 1.0, 0.0]])
    scores = score_prompts(logits, logits, pairs)
    # 2 > 1; token 2 is the most probable, not 0; 0.5 < 1.
    assert scores["accuracy"].tolist() == [1, 0, 0]
    assert scores["logit_diff"].tolist() == pytest.approx([1.0, math.nan, -0.5], nan_ok=True)
    none = replace(pairs, wrong_ids=torch.full((3, 1), -1))
    assert score_prompts(logits, logits, none)["accuracy"].tolist() == [0, 0, 0]
    assert score_prompts(logits, logits, none)["logit_diff"].isnan().all()


def test_any_of_several_right_answers_counts_without_a_wrong_one() -> None:
    # Asked at two, one and one positions; the top tokens are 0 1 | 2 | 1.
    right = torch.tensor([[0, -1], [1, 2], [0, 2]])
    pairs = batch(PROMPT, answer_ids=torch.tensor([0, 1, 1, 0]), correct_ids=right)
    assert score_prompts(LOGITS, TEACHER, pairs)["accuracy"].tolist() == [1, 1, 0]
    # The first prompt: of the answer itself every token has to be right, of another one the first is known alone.
    pairs = batch(PROMPT, answer_ids=torch.tensor([0, 2, 1, 0]), correct_ids=right)
    assert score_prompts(LOGITS, TEACHER, pairs)["accuracy"].tolist() == [0, 1, 0]
    pairs = batch(PROMPT, answer_ids=torch.tensor([2, 2, 1, 0]), correct_ids=torch.tensor([[2, 0], [1, 2], [0, 2]]))
    assert score_prompts(LOGITS, TEACHER, pairs)["accuracy"].tolist() == [1, 1, 0]
    # Lists in memory may leave the answer out, or be empty; the answer is right all the same.
    pairs = batch(PROMPT, answer_ids=torch.tensor([0, 1, 2, 1]), correct_ids=torch.tensor([[-1], [0], [-1]]))
    assert score_prompts(LOGITS, TEACHER, pairs)["accuracy"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("whose", ["circuit", "full"])
def test_outputs_that_are_no_numbers_agree_with_nothing(bad: float, whose: str) -> None:
    broken = LOGITS.clone()
    broken[1, 2] = bad  # the first prompt's second position
    logits, teacher = (broken, LOGITS) if whose == "circuit" else (LOGITS, broken)
    answers = {"answer_ids": torch.tensor([0, 1, 2, 1]), "wrong_ids": torch.tensor([[1], [0], [0]])}
    for name, values in score_prompts(logits, teacher, batch(PROMPT, **answers)).items():
        assert values.isnan().tolist() == [True, False, False], name
    numbers = batch([0, 1], answer_values=torch.tensor([0.5, 0.5]))
    said = torch.tensor([[bad], [0.5]]), torch.tensor([[0.5], [0.5]])
    found = score_prompts(*(said if whose == "circuit" else said[::-1]), numbers)
    assert {name: values.isnan().tolist() for name, values in found.items()} == {
        name: [True, False] for name in ("mse", "accuracy", "exact_match")
    }


def test_a_kl_is_never_below_zero() -> None:
    """Rounding alone took it to −1e-7 here: 2,000 prompts whose outputs are the same but for the last bits."""
    teacher = torch.randn(2000, 300, generator=torch.Generator().manual_seed(0)) * 3
    logits = teacher + 1e-6 * torch.randn(2000, 300, generator=torch.Generator().manual_seed(1))
    scores = score_prompts(logits, teacher, batch(list(range(2000))))
    exact = (teacher.double().softmax(-1) * (teacher.double().log_softmax(-1) - logits.double().log_softmax(-1))).sum(
        -1
    )
    assert float(scores["kl"].min()) >= 0
    assert float((scores["kl"] - exact).abs().max()) < 2e-6


def test_kl_is_a_mean_over_a_prompts_tokens() -> None:
    teacher = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]], dtype=torch.float64).log() + 2
    circuit = torch.tensor([[0.25, 0.75], [0.25, 0.75], [1 / e, 1 - 1 / e]], dtype=torch.float64).log()
    third = 0.5 * log(0.5 * e) + 0.5 * log(0.5 / (1 - 1 / e))
    scores = score_prompts(circuit, teacher, batch([0, 0, 1]))
    assert scores["kl"].tolist() == pytest.approx([0.25 * log(4 / 3), third], abs=1e-12)


def test_numbers_are_right_within_a_twentieth() -> None:
    said = torch.tensor([[0.54], [1.0], [0.2], [0.3]])
    teacher = torch.tensor([[0.54], [1.04], [0.3], [0.3]])
    right = torch.tensor([0.5, 1.0, 0.2, 0.36])
    scores = score_prompts(said, teacher, batch(PROMPT, answer_values=right))
    assert scores["accuracy"].tolist() == [True, True, False]
    assert scores["exact_match"].tolist() == [True, False, True]
    assert scores["mse"].tolist() == pytest.approx([0.0016 / 2, 0.01, 0], abs=1e-8)
    assert "kl" not in scores


# ---------------------------------------------------------------- whole evaluations


def test_the_full_model_and_a_circuit_of_everything(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS, n_asked=(1, 2), wrong=True)
    found = evaluate(compiled, circuit_of(compiled, 2.0), pairs, n_random=0, batch_size=3).metrics
    assert found["full"]["kl"] == 0 and found["full"]["exact_match"] == 1
    assert abs(found["circuit"]["kl"]) < 1e-5 and found["circuit"]["exact_match"] == 1
    assert found["circuit"]["logit_diff"] == pytest.approx(found["full"]["logit_diff"], abs=1e-4)
    assert figures(found["complement"]) == figures(found["empty"])
    assert set(found) == {"circuit", "full", "empty", "complement"}
    assert all(row["n"] == 8 for row in found.values())


def test_nothing_is_the_model_on_the_corrupted_prompt(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS, n_asked=(1, 2), wrong=True)
    empty = Circuit.from_edges(compiled.universe, [])
    evaluation = evaluate(compiled, empty, pairs, n_random=0, batch_size=3)
    rows = []
    for i in range(len(pairs)):
        asked = pairs.predict_positions[i]
        clean, corrupted = (hugging_face(compiled, ids[i])[asked] for ids in (pairs.clean_ids, pairs.corrupted_ids))
        right, wrong = pairs.correct_ids[i], pairs.wrong_ids[i]
        rows.append(
            {
                "kl": plain_kl(clean, corrupted),
                "exact_match": float((clean.argmax(-1) == corrupted.argmax(-1)).all()),
                "accuracy": float(corrupted[0].exp()[right].sum() > corrupted[0].exp()[wrong].sum()),
                "logit_diff": float(corrupted[0][right].mean() - corrupted[0][wrong].mean()),
                "full_accuracy": float(clean[0].exp()[right].sum() > clean[0].exp()[wrong].sum()),
                "full_logit_diff": float(clean[0][right].mean() - clean[0][wrong].mean()),
            }
        )
    # Row by row, in the order of the prompts, though batches go by length.
    for name in rows[0]:
        expected = [row[name] for row in rows]
        assert evaluation.examples[name].tolist() == pytest.approx(expected, abs=1e-5), name
        if not name.startswith("full"):
            mean = sum(expected) / len(expected)
            for role in ("circuit", "empty"):
                assert evaluation.metrics[role][name] == pytest.approx(mean, abs=1e-5)
        else:
            assert evaluation.metrics["full"][name.removeprefix("full_")] == pytest.approx(np.mean(expected), abs=1e-5)
    assert evaluation.examples["prompt"].tolist() == [f"prompt {i}" for i in range(8)]
    assert evaluation.examples["full_top"].tolist() == [
        int(hugging_face(compiled, ids)[asked[0]].argmax())
        for ids, asked in zip(pairs.clean_ids, pairs.predict_positions, strict=True)
    ]


def test_agreement_where_the_model_is_right_and_where_it_is_wrong(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS)
    tops = [int(hugging_face(compiled, ids)[-1].argmax()) for ids in pairs.clean_ids]
    # The model's own answer is right on the first five prompts and wrong on the other three.
    answers = tuple(np.array([top if i < 5 else (top + 1) % 29]) for i, top in enumerate(tops))
    pairs = replace(pairs, answer_ids=answers)
    # On the corrupted prompts the same is said where they are the clean ones: prompts 0, 1, 6 and 7.
    same = (0, 1, 6, 7)
    ids = tuple(c if i in same else pairs.corrupted_ids[i] for i, c in enumerate(pairs.clean_ids))
    pairs = replace(pairs, corrupted_ids=ids)
    others = [i for i in range(8) if i not in same]
    agree = {i: i in same or int(hugging_face(compiled, ids[i])[-1].argmax()) == tops[i] for i in range(8)}
    assert not all(agree[i] for i in others), "the case must tell something"
    found = evaluate(compiled, Circuit.from_edges(compiled.universe, []), pairs, n_random=0).metrics
    assert found["full"]["accuracy"] == pytest.approx(5 / 8)
    assert found["full"]["agreement_full_right"] == found["full"]["agreement_full_wrong"] == 1
    circuit = found["circuit"]
    assert circuit["n_full_right"] == 5
    assert circuit["agreement_full_right"] == pytest.approx(sum(agree[i] for i in range(5)) / 5)
    assert circuit["agreement_full_wrong"] == pytest.approx(sum(agree[i] for i in range(5, 8)) / 3)
    assert circuit["exact_match"] == pytest.approx(sum(agree.values()) / 8)


def test_agreement_on_errors_that_there_are_none_of(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS)
    tops = tuple(hugging_face(compiled, ids)[-1].argmax()[None].numpy() for ids in pairs.clean_ids)
    found = evaluate(compiled, circuit_of(compiled, 0.5), replace(pairs, answer_ids=tops), n_random=2).metrics
    assert found["circuit"]["agreement_full_wrong"] is None
    assert found["random"]["agreement_full_wrong"] is None
    assert found["circuit"]["agreement_full_right"] == found["circuit"]["exact_match"]


@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean"])
def test_the_complement_keeps_what_the_circuit_cuts(compiled: CompiledModel, ablation: str) -> None:
    pairs = random_prompts(lengths=LENGTHS, wrong=True)
    circuit = circuit_of(compiled, 0.6, ablation=ablation)
    ours = evaluate(compiled, circuit, pairs, n_random=0).metrics["complement"]
    alone = evaluate(compiled, circuit.complement(), pairs, n_random=0).metrics["circuit"]
    assert figures(ours) == pytest.approx(figures(alone), abs=1e-5)
    assert ours["kl"] > 1e-3


@pytest.mark.slow
def test_random_circuits_are_averaged_with_their_spread(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS, wrong=True)
    circuit = circuit_of(compiled, 0.5)
    state = GlobalRandomState()
    found = evaluate(compiled, circuit, pairs, n_random=4, seed=0).metrics["random"]
    state.assert_untouched()
    again = evaluate(compiled, circuit, pairs, n_random=4, seed=0).metrics["random"]
    other = evaluate(compiled, circuit, pairs, n_random=4, seed=50).metrics["random"]
    assert found == again and found["kl"] != other["kl"]
    assert found["n_circuits"] == 4 and found["n"] == 8
    singles = [evaluate(compiled, circuit, pairs, n_random=1, seed=s).metrics["random"] for s in range(4)]
    values = [row["kl"] for row in singles]
    mean = sum(values) / 4
    assert found["kl"] == pytest.approx(mean, abs=1e-6)
    assert found["kl_sd"] == pytest.approx((sum((v - mean) ** 2 for v in values) / 3) ** 0.5, abs=1e-6)
    assert singles[0]["kl_sd"] is None


@pytest.fixture(scope="module")
def sampled(compiled: CompiledModel) -> tuple[dict, list, np.ndarray]:
    ran: list[tuple[int, int]] = []
    found = evaluate(
        compiled, circuit_of(compiled, 0.5), random_prompts(lengths=LENGTHS, wrong=True), n_random=2,
        n_random_prompts=3, seed=1, batch_size=2, tick=lambda *done: ran.append(done),
    ).metrics  # fmt: skip
    return found, ran, sampled_prompts(8, 3, seed=1)


class TestRandomCircuitsOnSomePrompts:
    """Random circuits run on a sample; what they say of it is what an evaluation of these prompts alone says."""

    def test_they_and_their_difference_are_of_these_prompts_alone(self, compiled: CompiledModel, sampled) -> None:
        found, _, chosen = sampled
        alone = evaluate(
            compiled, circuit_of(compiled, 0.5), random_prompts(lengths=LENGTHS, wrong=True).subset(chosen),
            n_random=2, seed=1,
        ).metrics  # fmt: skip
        assert found["random"]["n"] == 3 and len(chosen) == 3
        for name, expected in flat_row(alone["random"], intervals=True).items():
            assert flat_row(found["random"], intervals=True)[name] == pytest.approx(expected, abs=1e-6), name
        for name, expected in alone["random"]["difference"].items():
            assert found["random"]["difference"][name] == pytest.approx(expected, abs=1e-6), name

    def test_every_other_role_has_all_prompts(self, compiled: CompiledModel, sampled) -> None:
        found, ran, _ = sampled
        every = evaluate(
            compiled, circuit_of(compiled, 0.5), random_prompts(lengths=LENGTHS, wrong=True), n_random=0
        ).metrics
        for role in ("full", "circuit", "empty", "complement"):
            assert found[role]["n"] == 8
            for name, expected in flat_row(every[role]).items():
                assert found[role][name] == pytest.approx(expected, abs=1e-6), name
        # Eight prompts with the model, circuit, empty circuit and complement; three with two random circuits.
        assert ran[-1] == (38, 38)

    def test_none_takes_all_and_none_at_all_is_refused(self, compiled: CompiledModel) -> None:
        pairs, circuit = random_prompts(lengths=[4, 4, 5]), circuit_of(compiled, 0.5)
        few, every = (evaluate(compiled, circuit, pairs, n_random=1, n_random_prompts=n).metrics for n in (3, None))
        assert few["random"] == every["random"] and every["random"]["n"] == 3
        with pytest.raises(ConfigurationError, match="a sample of 1 prompt or more"):
            evaluate(compiled, circuit, pairs, n_random_prompts=0)

    def test_prompts_that_they_leave_undefined_are_named_by_their_place(self) -> None:
        # Seed 1 draws prompts that do not include every one: a bad token in a drawn one is named as it stands in all.
        chosen = sampled_prompts(8, 3, seed=1)
        measured = Measured(
            columns={
                "full": {"exact_match": np.ones(8)},
                "random 0": {"exact_match": np.array([1.0, np.nan, 1.0])},
            },
            masks={}, ablation="zero", tops={}, only_on={"random 0": chosen},
        )  # fmt: skip
        assert measured.undefined().tolist() == [chosen[1]]


def test_the_table_has_every_metric_of_every_role_as_a_number(compiled: CompiledModel) -> None:
    found = evaluate(compiled, circuit_of(compiled, 0.5), random_prompts(lengths=LENGTHS), n_random=1)
    table = found.table
    assert list(table.index) == list(found.metrics)
    assert set(table.columns) == {name for row in found.metrics.values() for name in flat_row(row)}
    assert (table.dtypes == np.float64).all()
    for role, row in found.metrics.items():
        for name in table.columns:
            value = row.get(name)
            assert np.isnan(table.loc[role, name]) if value is None else table.loc[role, name] == value


def test_batches_do_not_matter(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS, n_asked=(1, 3), wrong=True)
    circuit = circuit_of(compiled, 0.6)
    one, all_ = (evaluate(compiled, circuit, pairs, n_random=1, batch_size=size) for size in (1, 64))
    assert one.examples["kl"].tolist() == pytest.approx(all_.examples["kl"].tolist(), abs=1e-5)
    for role, row in one.metrics.items():
        assert figures(row) == pytest.approx(figures(all_.metrics[role]), abs=1e-5)


def test_a_circuit_of_another_universe(tiny_gpt2, compiled: CompiledModel) -> None:
    split = compile_model(tiny_gpt2(), embeddings="split", verify=False)
    with pytest.raises(GraphMismatchError, match="embeddings: 'split' against 'joint'"):
        evaluate(compiled, circuit_of(split, 0.5), random_prompts(lengths=[3]))


def test_nothing_to_evaluate_on(compiled: CompiledModel) -> None:
    with pytest.raises(ConfigurationError, match="no prompts"):
        evaluate(compiled, circuit_of(compiled, 0.5), random_prompts(lengths=[3]).subset([]))


def test_the_edges_before_dropping_on_request(compiled: CompiledModel) -> None:
    """What dangled changed nothing."""
    pairs = random_prompts(lengths=LENGTHS, wrong=True)
    raw = np.flatnonzero(np.random.default_rng(1).random(compiled.universe.n_edges) < 0.4)
    circuit = Circuit.from_edges(compiled.universe, raw)
    assert 0 < len(circuit) < len(raw)
    found = evaluate(compiled, circuit, pairs, n_random=0, raw_edges=raw).metrics
    assert figures(found["raw"]) == pytest.approx(figures(found["circuit"]), abs=1e-5)
    wrong = evaluate(compiled, circuit, pairs, n_random=0, raw_edges=raw[:5]).metrics
    assert wrong["raw"]["kl"] != pytest.approx(found["circuit"]["kl"], abs=1e-3)


# ---------------------------------------------------------------- prompts of both kinds


def test_prompts_without_wrong_answers_among_others(compiled: CompiledModel) -> None:
    """Each role's means against plain runs: three prompts of eight have a wrong answer."""
    pairs = random_prompts(lengths=LENGTHS, wrong=True)
    has_wrong = np.array([True, False, False, True, False, False, True, False])
    wrong = tuple(ids if given else ids[:0] for ids, given in zip(pairs.wrong_ids, has_wrong, strict=True))
    answers = tuple(ids[:1] for ids in pairs.correct_ids)
    # Two of those without a wrong answer are right of themselves, one of them by its second right answer.
    tops = [hugging_face(compiled, ids)[-1].argmax()[None].numpy() for ids in pairs.clean_ids]
    correct = list(pairs.correct_ids)
    answers = (*answers[:1], tops[1], *answers[2:])
    correct[1], correct[2] = tops[1], np.append(answers[2], tops[2])
    pairs = replace(pairs, answer_ids=answers, correct_ids=tuple(correct), wrong_ids=wrong)
    found = evaluate(compiled, circuit_of(compiled, 0.5), pairs, n_random=1)
    for role, sides in {"full": pairs.clean_ids, "empty": pairs.corrupted_ids}.items():
        right, differences = [], []
        for i, ids in enumerate(sides):
            logits = hugging_face(compiled, ids)[-1].double()
            if has_wrong[i]:
                right.append(logits.exp()[correct[i]].sum() > logits.exp()[wrong[i]].sum())
                differences.append(logits[correct[i]].mean() - logits[wrong[i]].mean())
            else:
                right.append(int(logits.argmax()) in correct[i])
        row = found.metrics[role]
        assert row["accuracy"] == pytest.approx(np.mean(right))
        assert row["logit_diff"] == pytest.approx(float(np.mean(differences)), abs=1e-5)
        assert row["n_logit_diff"] == 3 and "n_accuracy" not in row and row["n_undefined"] == 0
    assert found.metrics["full"]["accuracy"] >= 2 / 8
    assert all(found.metrics[role]["n_logit_diff"] == 3 for role in ("circuit", "complement", "random"))
    for name in ("logit_diff", "full_logit_diff"):
        assert found.examples[name].notna().tolist() == has_wrong.tolist()
    assert found.examples["accuracy"].notna().all()


# ---------------------------------------------------------------- outputs that are no numbers


@pytest.fixture
def broken(tiny_gpt2) -> CompiledModel:
    """A model that says NaN of every prompt with token 7, whose embedding is NaN."""
    model = tiny_gpt2(seed=2)
    with torch.no_grad():
        model.transformer.wte.weight[7, 0] = torch.nan
        model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.nan_to_num().clone())
    return compile_model(model, verify=False)


def test_prompts_of_a_broken_token_are_named_counted_and_left_out(broken: CompiledModel) -> None:
    pairs = random_prompts(lengths=[3, 3, 3, 3], wrong=True)
    clean, corrupted = ([np.where(ids == 7, 8, ids) for ids in side] for side in (pairs.clean_ids, pairs.corrupted_ids))
    clean[1][0] = 7  # the model itself says nothing of prompt 1
    corrupted[3][0] = 7  # nothing is said of prompt 3 by what carries its counterfactual
    pairs = replace(pairs, clean_ids=tuple(clean), corrupted_ids=tuple(corrupted))
    with pytest.warns(UndefinedWarning, match=r"full on 1 of 4 prompts.*Prompts: 1 \('prompt 1'\), 3 \('prompt 3'\)"):
        found = evaluate(broken, Circuit.from_edges(broken.universe, []), pairs, n_random=1)
    assert [found.metrics[role]["n_undefined"] for role in ("full", "circuit", "empty", "random")] == [1, 2, 2, 2]
    whole = evaluate(broken, Circuit.from_edges(broken.universe, []), pairs.subset([0, 2]), n_random=0).metrics
    assert figures(found.metrics["circuit"])["kl"] == pytest.approx(whole["circuit"]["kl"], abs=1e-5)
    assert found.metrics["circuit"]["n_accuracy"] == 2
    shown = found.examples
    for name in ("kl", "exact_match", "accuracy", "logit_diff", "circuit_top"):
        assert shown[name].isna().tolist() == [False, True, False, True], name
    assert shown["full_top"].isna().tolist() == [False, True, False, False]


def test_a_model_of_nothing_but_nan_agrees_with_nothing(tiny_gpt2) -> None:
    model = tiny_gpt2(seed=2)
    with torch.no_grad():
        model.transformer.wte.weight.fill_(torch.nan)
    compiled = compile_model(model, verify=False)
    with pytest.warns(UndefinedWarning, match="full on 8 of 8 prompts"):
        found = evaluate(compiled, circuit_of(compiled, 0.5), random_prompts(lengths=LENGTHS), n_random=1)
    for row in found.metrics.values():
        assert row["n_undefined"] == 8 and row["exact_match"] is row["kl"] is row["accuracy"] is None
        assert row["agreement_full_right"] is None and set(row["intervals"].values()) == {None}
    assert found.examples["circuit_top"].isna().all()


# ---------------------------------------------------------------- edited graphs


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_roles_keep_what_the_edited_graph_has(compiled: CompiledModel, ablation: str) -> None:
    """Removed edges are kept nowhere, frozen ones everywhere; each role against a run of gates made by hand."""
    pairs, universe = random_prompts(lengths=LENGTHS), compiled.universe
    graph = compiled.graph
    graph.remove_nodes_from(["m1"])
    graph.edges["input", "m0"]["frozen"] = graph.edges["m0", "logits"]["frozen"] = True
    edited = compiled.with_graph(graph)
    names = [universe.edge_name(edge) for edge in range(universe.n_edges)]
    removed = np.array(["m1" in name.split("->") for name in names])
    frozen = np.array([name in ("input->m0", "m0->logits") for name in names])
    kept = (np.random.default_rng(0).random(universe.n_edges) < 0.5) & ~removed | frozen
    circuit = Circuit.from_edges(universe, kept, ablation=ablation)
    found = evaluate(edited, circuit, pairs, n_random=2).metrics
    masks = {
        "circuit": circuit.mask,
        "empty": frozen,
        "complement": ~circuit.mask & ~removed | frozen,
        "edited": ~removed,
    }
    # The unedited model runs these gates as they are.
    plain = evaluate_masks(compiled, masks, pairs, ablation=ablation)
    for role in masks:
        assert found[role]["kl"] == pytest.approx(plain[role]["kl"], abs=1e-7), role
    assert found["full"]["kl"] == 0 and found["edited"]["kl"] > 1e-4
    whole = evaluate_masks(compiled, {"all": ~circuit.mask}, pairs, ablation=ablation)["all"]["kl"]
    assert abs(whole - found["complement"]["kl"]) > 1e-5, "the case must tell something"
    assert (found["empty"]["n_edges"], found["full"]["n_edges"]) == (2, universe.n_edges)
    assert found["circuit"]["n_edges"] == len(circuit)
    # Any mask is run as the edited graph has it.
    assert evaluate_masks(edited, {"all": ~circuit.mask}, pairs, ablation=ablation)["all"]["kl"] == pytest.approx(
        found["complement"]["kl"], abs=1e-7
    )
    for seed in range(5):
        drawn = random_circuit(circuit, seed=seed, gate_map=edited.gate_map).mask
        assert not (drawn & removed).any()


def test_a_circuit_that_the_edited_graph_cannot_be(compiled: CompiledModel) -> None:
    pairs, universe = random_prompts(lengths=[3, 3]), compiled.universe
    graph = compiled.graph
    graph.remove_edge("m0", "logits")
    with pytest.raises(GraphMismatchError, match=r"keeps 1 edges that were removed .*\(m0->logits\)"):
        evaluate(compiled.with_graph(graph), Circuit.from_edges(universe, np.arange(universe.n_edges)), pairs)
    graph = compiled.graph
    graph.edges["m0", "logits"]["frozen"] = True
    lacks = Circuit.from_edges(universe, ["input->m0", "m0->m1", "m1->logits"])
    with pytest.raises(GraphMismatchError, match=r"'one' cuts 1 edges that .* frozen \(m0->logits\)"):
        evaluate_masks(compiled.with_graph(graph), {"one": lacks}, pairs)
    dangles = Circuit.from_edges(universe, ["input->logits"])  # a frozen edge that dangles changes nothing
    assert evaluate(compiled.with_graph(graph), dangles, pairs, n_random=0).metrics["circuit"]["n_edges"] == 1


# ---------------------------------------------------------------- intervals


def test_differences_to_every_role_are_paired_by_prompt(compiled: CompiledModel) -> None:
    pairs = random_prompts(lengths=LENGTHS, wrong=True)
    circuit = circuit_of(compiled, 0.6)
    found = evaluate(compiled, circuit, pairs, n_random=2)
    ours = found.examples["kl"].to_numpy()
    nothing = evaluate(compiled, Circuit.from_edges(compiled.universe, []), pairs, n_random=0).examples["kl"].to_numpy()
    assert found.metrics["circuit"]["intervals"]["kl"] == pytest.approx(intervals_of({"kl": ours})["kl"], abs=1e-6)
    apart = found.metrics["empty"]["difference"]["kl"]
    assert apart["mean"] == pytest.approx((ours - nothing).mean(), abs=1e-6)
    assert [apart["low"], apart["high"]] == pytest.approx(intervals_of({"kl": ours - nothing})["kl"], abs=1e-6)
    assert "difference" not in found.metrics["circuit"]
    measures = {"kl", "exact_match", "accuracy", "logit_diff", "prob_diff", "kendall_tau"}
    assert set(found.metrics["random"]["difference"]) == measures
    for row in found.metrics.values():
        for name, bounds in row["intervals"].items():
            if bounds is not None:
                assert bounds[0] - 1e-9 <= row[name] <= bounds[1] + 1e-9, name
    # They hang on the prompts alone, not on the seed of the random circuits.
    other = evaluate(compiled, circuit, pairs, n_random=0, seed=5).metrics["circuit"]["intervals"]
    assert other == found.metrics["circuit"]["intervals"]


def test_a_single_prompt_has_no_interval(compiled: CompiledModel) -> None:
    found = evaluate(compiled, circuit_of(compiled, 0.6), random_prompts(lengths=[4]), n_random=1).metrics
    assert found["circuit"]["intervals"]["kl"] is None
    assert found["empty"]["difference"]["kl"]["low"] is None and found["empty"]["difference"]["kl"]["mean"] is not None
    table = metrics_table(found, intervals=True)
    assert np.isnan(table.loc["circuit", "kl_low"]) and (table.dtypes == np.float64).all()


# ---------------------------------------------------------------- numeric outputs


@pytest.fixture(scope="module")
def xproportion() -> tuple[CompiledModel, EncodedPairs]:
    loaded = load_model("tracr:xproportion")
    pairs = load_task("tracr-xproportion", loaded.tokenizer).splits["test"]
    return compile_model(loaded, embeddings="split", verify=False), pairs.subset(range(0, len(pairs), 17))


def test_numeric_outputs(xproportion: tuple[CompiledModel, EncodedPairs]) -> None:
    compiled, pairs = xproportion
    truth = ["tok->m0", "pos->a1.h0<q>", "pos->a1.h0<k>", "m0->a1.h0<v>", "a1.h0->logits"]
    circuit = Circuit.from_edges(compiled.universe, truth, ablation="zero")
    found = evaluate(compiled, circuit, pairs, n_random=2)
    assert figures(found.metrics["full"]) == {
        "n": len(pairs), "n_undefined": 0, "mse": 0, "accuracy": 1, "exact_match": 1,
        "n_full_right": len(pairs), "agreement_full_right": 1, "agreement_full_wrong": None,
    }  # fmt: skip
    assert found.metrics["circuit"]["mse"] < 1e-10 and found.metrics["circuit"]["exact_match"] == 1
    # The empty circuit says 0 everywhere: right where a prompt has no x, and its error is the number itself.
    values = [np.asarray(row) for row in pairs.answer_values]
    empty = found.metrics["empty"]
    assert empty["mse"] == pytest.approx(np.mean([(row**2).mean() for row in values]), abs=1e-6)
    assert empty["accuracy"] == empty["exact_match"] == pytest.approx(np.mean([(row == 0).all() for row in values]))
    assert found.examples["circuit_top"].tolist() == pytest.approx([row[0] for row in values], abs=1e-5)
    assert "kl" not in found.metrics["circuit"] and "logit_diff" not in found.examples


# ---------------------------------------------------------------- several at once


def test_circuits_are_measured_as_their_masks_are(compiled) -> None:
    pairs = random_prompts(lengths=[4, 4, 3])
    one, other = (circuit_of(compiled, share, ablation="zero") for share in (0.7, 0.4))
    found = evaluate_masks(compiled, {"one": one, "other": other, "mask": one.mask}, pairs)
    assert found["one"] == found["mask"] != found["other"]
    assert found["one"]["kl"] == evaluate(compiled, one, pairs, n_random=0).metrics["circuit"]["kl"]
    assert evaluate_masks(compiled, {"one": one}, pairs, ablation="counterfactual")["one"]["kl"] != found["one"]["kl"]


def test_masks_that_cannot_be_measured_together_are_refused(compiled) -> None:
    pairs = random_prompts(lengths=[3])
    zero, counterfactual = circuit_of(compiled, 0.5, ablation="zero"), circuit_of(compiled, 0.5)
    with pytest.raises(ConfigurationError, match=r"differ in it \(counterfactual, zero\); say what cut edges carry"):
        evaluate_masks(compiled, {"a": zero, "b": counterfactual}, pairs)
    with pytest.raises(ConfigurationError, match="masks do not say"):
        evaluate_masks(compiled, {"a": zero.mask}, pairs)
    with pytest.raises(ConfigurationError, match="'a': expected a circuit, or one boolean for each .* got float64"):
        evaluate_masks(compiled, {"a": zero.mask.astype(float)}, pairs, ablation="zero")
    with pytest.raises(ConfigurationError, match="the name 'full'"):
        evaluate_masks(compiled, {"full": zero}, pairs)
    with pytest.raises(ConfigurationError, match="no prompts"):
        evaluate_masks(compiled, {"a": zero}, pairs.subset([]))
    split = compile_model(compiled.model, embeddings="split", verify=False)
    with pytest.raises(GraphMismatchError, match="the universe of 'a' is not the compiled model's"):
        evaluate_masks(split, {"a": zero}, pairs)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"n_random": -1}, "n_random must be a whole number of at least 0; got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(compiled: CompiledModel, asked: dict, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        evaluate(compiled, circuit_of(compiled, 0.5), random_prompts(lengths=LENGTHS), **asked)
