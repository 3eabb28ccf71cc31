"""Verdicts, on figures written by hand: what has to speak speaks, and a good run has nothing against it."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.evaluation.proportion import wilson
from pruning.runs.verdicts import verdicts

# `make demo` of 2026-11-23, as docs/performance.md has it.
DEMO: dict[str, dict[str, Any]] = {
    "circuit": {"n": 200, "kl": 0.244, "exact_match": 0.87, "accuracy": 1.0, "logit_diff": 7.84},
    "full": {"n": 200, "kl": 0.0, "exact_match": 1.0, "accuracy": 1.0, "logit_diff": 5.23},
    "empty": {"n": 200, "kl": 3.774, "exact_match": 0.045, "accuracy": 0.51, "logit_diff": 0.01},
    "complement": {"n": 200, "kl": 3.774, "exact_match": 0.045, "accuracy": 0.51, "logit_diff": 0.02},
    "random": {"n": 200, "n_circuits": 10, "kl": 3.754, "exact_match": 0.045, "accuracy": 0.498, "kl_sd": 0.01},
}


def judged(split: str = "test", /, **roles: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The verdicts by name on the demo's figures with some of them changed."""
    changed = {role: {**DEMO[role], **roles.get(role, {})} for role in DEMO}
    return {one["name"]: one for one in verdicts({"splits": {split: changed}})}


def test_a_good_run_has_nothing_against_it() -> None:
    assert judged() == {}


def test_wilson_is_the_books_interval() -> None:
    # The roots of (p − 1/3)² = 1.96² p (1 − p) / 3.
    low, high = wilson(1 / 3, 3)
    for end in (low, high):
        assert (end - 1 / 3) ** 2 == pytest.approx(1.959963985**2 * end * (1 - end) / 3)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0) and wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_a_model_that_is_right_on_one_of_three() -> None:
    row = {"n": 3, "accuracy": 1 / 3, "logit_diff": None}
    found = judged(full=row, circuit={"n": 3})
    verdict = found["model-cannot-do-task"]
    assert verdict["severity"] == "doubt" and "1 of 3 test prompts (33 %, 95 % interval 6 to 79 %)" in verdict["text"]
    assert "few-prompts" in found


def test_a_model_that_surely_cannot() -> None:
    assert judged(full={"accuracy": 0.2, "logit_diff": None})["model-cannot-do-task"]["severity"] == "wrong"


def test_a_choice_of_two_at_chance() -> None:
    found = judged(full={"accuracy": 0.52})["model-cannot-do-task"]
    assert found["severity"] == "doubt" and "chance is 50 %" in found["text"]


def test_prompts_without_a_wrong_answer_are_counted_by_their_own_number() -> None:
    # 5 prompts, 2 of them with a wrong answer: accuracy is not that of a choice, and is of 5.
    found = judged(full={"n": 5, "n_accuracy": 5, "n_logit_diff": 2, "accuracy": 0.2})
    assert "gives the right answer to 1 of 5 test prompts" in found["model-cannot-do-task"]["text"]


@pytest.mark.parametrize(("kl", "severity"), [(1e-7, "wrong"), (0.0, "wrong"), (5e-3, "doubt")])
def test_a_counterfactual_that_changes_nothing(kl: float, severity: str) -> None:
    same = {"kl": kl, "exact_match": 1.0, "accuracy": 1.0}
    found = judged(empty=same, circuit=same, random=same, complement=same)
    assert found["nothing-to-explain"]["severity"] == severity
    if severity == "wrong":  # one reason, not one for every baseline
        assert set(found) == {"nothing-to-explain"}
        assert "target-sparsity" not in found["nothing-to-explain"]["text"]


def test_a_complement_that_is_better() -> None:
    found = judged(complement={"kl": 0.1})
    assert found["no-better-than-complement"]["severity"] == "wrong"
    assert "0.244 nats against 0.1" in found["no-better-than-complement"]["text"]


@pytest.mark.parametrize("role", ["random", "empty", "complement"])
@pytest.mark.parametrize(
    ("low", "high", "severity"), [(-0.5, -0.1, None), (-0.2, 0.1, "doubt"), (0.05, 0.3, "wrong"), (0.0, 0.0, "doubt")]
)
def test_the_paired_interval_decides(role: str, low: float, high: float, severity: str | None) -> None:
    mean = (low + high) / 2
    difference = {"kl": {"mean": mean, "low": low, "high": high}}
    found = judged(**{role: {"kl": 0.244 - mean, "difference": difference}})
    assert found.get(f"no-better-than-{role}", {}).get("severity") == severity


def test_accuracy_that_crosses_the_empty_circuits() -> None:
    found = judged(circuit={"accuracy": 0.54})  # Wilson's interval of 108 of 200 is 0.471 to 0.608
    assert found["accuracy-crosses-baseline"]["severity"] == "doubt"
    paired = {"accuracy": {"mean": 0.03, "low": 0.01, "high": 0.05}, "kl": {"mean": -3.0, "low": -3.5, "high": -2.5}}
    assert "accuracy-crosses-baseline" not in judged(
        circuit={"accuracy": 0.54}, empty={"difference": paired}, random={"difference": paired}
    )


def test_undefined_prompts() -> None:
    assert judged(full={"n_undefined": 3})["undefined-outputs"]["severity"] == "doubt"
    row = {"n_undefined": 200, "kl": None, "exact_match": None, "accuracy": None, "logit_diff": None}
    found = judged(full=row, circuit=row, empty=row, complement=row, random=row)
    assert (
        found["undefined-outputs"]["severity"] == "wrong"
        and "200 of 200 test prompts" in (found["undefined-outputs"]["text"])
    )


def test_few_prompts_and_wide_intervals() -> None:
    assert "few-prompts" in judged(circuit={"n": 8, "exact_match": 1.0})
    assert "few-prompts" in judged(circuit={"n": 40, "exact_match": 0.5})
    assert "few-prompts" not in judged(circuit={"n": 60, "exact_match": 0.97})


def test_random_circuits_that_are_smaller() -> None:
    assert "random-circuits-smaller" in judged(circuit={"n_edges": 20}, random={"n_edges": 12.5})
    assert "random-circuits-smaller" not in judged(circuit={"n_edges": 20}, random={"n_edges": 19.5})


def test_an_empty_circuit() -> None:
    metrics = {"splits": {"test": {**DEMO, "circuit": {**DEMO["empty"]}}}, "sparsity": {"n_effective": 0}}
    assert [one["name"] for one in verdicts(metrics)] == ["empty-circuit"]


def test_the_wrong_come_first_and_test_prompts_are_judged() -> None:
    bad = {**DEMO, "full": {**DEMO["full"], "accuracy": 0.52}, "complement": {**DEMO["complement"], "kl": 0.1}}
    severities = [one["severity"] for one in verdicts({"splits": {"test": bad}})]
    assert severities == ["wrong", "doubt"]
    assert verdicts({"splits": {"validation": bad, "test": DEMO}}) == []
    assert {one["name"] for one in verdicts({"splits": {}})} == {"not-measured"}


def test_numeric_outputs() -> None:
    roles = {
        role: {"n": 84, "mse": mse, "exact_match": right, "accuracy": right}
        for role, mse, right in (
            ("circuit", 0.0, 1.0), ("full", 0.0, 1.0), ("empty", 0.2, 0.1), ("complement", 0.3, 0.1),
        )
    }  # fmt: skip
    assert verdicts({"splits": {"test": roles}}) == []
    roles["empty"] |= {"mse": 0.0, "exact_match": 1.0, "accuracy": 1.0}
    assert [one["name"] for one in verdicts({"splits": {"test": roles}})] == ["nothing-to-explain"]


def test_one_prompt_has_no_intervals_and_is_judged_by_its_figures() -> None:
    # `evaluate` on one prompt gives differences with a mean and no bounds.
    def row(kl: float, right: float) -> dict[str, Any]:
        return {
            "n": 1,
            "kl": kl,
            "exact_match": right,
            "accuracy": right,
            "difference": {
                "kl": {"mean": 0.2 - kl, "low": None, "high": None},
                "exact_match": {"mean": 1.0 - right, "low": None, "high": None},
                "accuracy": {"mean": 1.0 - right, "low": None, "high": None},
            },
        }

    found = judged(
        circuit={"n": 1, "kl": 0.2, "exact_match": 1.0, "accuracy": 1.0},
        full={"n": 1, "accuracy": 1.0, "n_logit_diff": 0},
        empty=row(3.0, 0.0),
        complement=row(0.1, 1.0),
        random=row(2.0, 0.0),
    )
    # Wilson's interval of 1 of 1 is 21 to 100 %, which 0 % is outside of.
    assert sorted(found) == ["few-prompts", "no-better-than-complement"]


@pytest.mark.parametrize(("kl", "far"), [(1.8, False), (1.95, True), (3.7, True), (3.8, False)])
def test_a_circuit_that_brings_back_less_than_half_of_what_is_lost(kl: float, far: bool) -> None:
    # Half of the empty circuit's 3.774 is 1.887; one that is no better than it has a verdict of its own.
    found = judged(circuit={"kl": kl})
    assert ("far-from-model" in found) is far
    if kl == 1.95:  # 1 - 1.95 / 3.774
        assert "it brings back 48 % of what is lost" in found["far-from-model"]["text"]


def test_more_prompts_tell_nothing_where_both_are_never_right() -> None:
    none = {"accuracy": 0.0}
    assert "more prompts" not in judged(circuit=none, random=none)["accuracy-crosses-baseline"]["text"]
    assert "more prompts" in judged(circuit={"accuracy": 0.54})["accuracy-crosses-baseline"]["text"]


def test_the_circuit_is_told_on_the_prompts_that_random_circuits_ran_on() -> None:
    # By hand: on the 32 prompts of the random circuits the circuit's KL is 3.8 − 0.1 = 3.7, and on all 200 it is 2.5.
    difference = {"kl": {"mean": -0.1, "low": -0.3, "high": 0.1}, "accuracy": {"mean": 0.25, "low": -0.1, "high": 0.6}}
    few = {"n": 32, "kl": 3.8, "accuracy": 0.5, "difference": difference}
    found = judged(circuit={"kl": 2.5, "accuracy": 0.9}, random=few)
    told = found["no-better-than-random"]["text"]
    assert "KL 3.7 nats against 3.8 on 32 of 200 test prompts; difference -0.1," in told
    assert "75 % against 50 % of 32 of 200 test prompts" in found["accuracy-crosses-baseline"]["text"]
    same = {"n": 200, "kl": 2.5, "difference": {"kl": {"mean": 3e-16, "low": -6e-17, "high": 8e-16}}}
    told = judged(circuit={"kl": 2.5}, random=same)["no-better-than-random"]["text"]
    assert "2.5 nats against 2.5 on 200 test prompts; difference 0, 95 % interval 0 to 0." in told
