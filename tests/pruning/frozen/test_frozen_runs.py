"""Runs that are kept, in memory or on disk, equal runs made afresh, and are not made again."""

from __future__ import annotations

import weakref
from dataclasses import fields

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import UnknownNameError
from circuitgraph.forward.reference import AblationValues
from pruning.frozen.rows import Rows
from pruning.frozen.runs import BatchOrder, FrozenBatch, FrozenRuns, RunCounts
from tests.oracles import definition as oracle
from tests.pruning.prompts.small_prompts import random_prompts

LENGTHS = [5, 3, 5, 4, 3, 5, 5, 3, 5, 5]
PROMPTS = random_prompts(lengths=LENGTHS, n_asked=(1, 3, 2))
FIVES = np.flatnonzero(np.array(LENGTHS) == 5)
ABLATIONS = ("counterfactual", "zero", "mean")


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


@pytest.fixture(scope="module")
def precise(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(dtype=torch.float64), verify=False)


def tensors(values: AblationValues) -> list[torch.Tensor]:
    found = []
    for part in fields(values):
        held = getattr(values, part.name)
        if not isinstance(held, str):
            found += [] if held is None else [held] if isinstance(held, torch.Tensor) else list(held)
    assert len(found) >= 1 + 3 * len(values.mlps)
    return found


def assert_same(a: FrozenBatch, b: FrozenBatch, *, atol: float = 0.0) -> None:
    assert torch.equal(a.pairs.clean.input_ids, b.pairs.clean.input_ids)
    assert torch.equal(a.pairs.index, b.pairs.index)
    for x, y in zip([a.teacher, *tensors(a.values)], [b.teacher, *tensors(b.values)], strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_kept_runs_are_fresh_runs_bit_for_bit(compiled: CompiledModel, ablation: str) -> None:
    kept = FrozenRuns(compiled, PROMPTS, ablation=ablation, batch_size=4)
    fresh = FrozenRuns(compiled, PROMPTS, ablation=ablation, batch_size=4, budget_bytes=0)
    for members in kept.by_length.values():
        for start in range(0, len(members), 4):
            chunk = members[start : start + 4]  # as it was run when it was kept
            assert_same(kept.batch(chunk), fresh.batch(chunk))
    assert kept.drawn.computed == 0 and kept.drawn.memory == len(PROMPTS)
    assert fresh.drawn == RunCounts(computed=len(PROMPTS))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("budget", [0, 1, 3000, 9000, 1 << 30])
def test_the_budget_changes_nothing_but_time(precise: CompiledModel, ablation: str, budget: int) -> None:
    """In other batches than they were kept in; other batches may round in another order, hence float64."""
    runs = FrozenRuns(precise, PROMPTS, ablation=ablation, batch_size=3, budget_bytes=budget)
    order = BatchOrder(runs.by_length, 2, np.random.default_rng(0))
    for _ in range(12):
        chunk = order.next()
        batch = runs.batch(chunk)
        pairs = PROMPTS.batch(chunk)
        teacher = precise.logits(pairs.clean)
        torch.testing.assert_close(batch.teacher, teacher, atol=1e-12, rtol=0)
        if ablation == "counterfactual":
            values = precise.run_with_values(pairs.corrupted)[1]
            for x, y in zip(tensors(batch.values), tensors(values), strict=True):
                torch.testing.assert_close(x, y, atol=1e-12, rtol=0)
    if budget == 0:
        assert runs.drawn.memory == 0
    if budget == 1 << 30:
        assert runs.drawn.computed == 0


def test_some_budgets_keep_some_runs(compiled: CompiledModel) -> None:
    runs = FrozenRuns(compiled, PROMPTS, ablation="counterfactual", batch_size=3, budget_bytes=9000)
    for index in range(len(PROMPTS)):
        runs.batch(np.array([index]))
    assert runs.drawn.memory and runs.drawn.computed


def test_no_run_is_held_while_the_next_ones_are_made(compiled: CompiledModel, monkeypatch) -> None:
    """Of what is copied into the reserved memory nothing stays behind."""
    made: list[weakref.ref[torch.Tensor]] = []
    held = []

    def run(self: FrozenRuns, kind: str, prompts: list[int]) -> Rows:
        if kind == "teacher":  # the first of a chunk
            held.append(sum(tensor() is not None for tensor in made))
        rows = run_for_real(self, kind, prompts)
        made.extend(weakref.ref(tensor) for tensor in rows.tensors.values())
        return rows

    run_for_real = FrozenRuns._run
    monkeypatch.setattr(FrozenRuns, "_run", run)
    FrozenRuns(compiled, PROMPTS, ablation="counterfactual", batch_size=2)
    assert len(held) == 3 + 2 + 1 and not any(held)


def test_teacher_and_means_by_the_definition(precise: CompiledModel) -> None:
    plain = oracle.plain_model(precise.model)
    runs = FrozenRuns(precise, PROMPTS, ablation="mean", batch_size=3)
    batch = runs.batch(FIVES[[3, 0, 2]])
    expected = []
    for index in FIVES[[3, 0, 2]]:
        logits, _ = oracle.plain_run(plain, precise.universe, torch.from_numpy(PROMPTS.clean_ids[index]))
        expected.append(logits[PROMPTS.predict_positions[index]])
    torch.testing.assert_close(batch.teacher, torch.cat(expected), atol=1e-10, rtol=0)
    rows = [torch.from_numpy(ids) for ids in PROMPTS.clean_ids]
    means = oracle.mean_said(plain, precise.universe, rows, per_position=False)
    for layer in range(2):
        torch.testing.assert_close(batch.values.mlps[layer].flatten(), means[f"m{layer}"], atol=1e-10, rtol=0)
    assert runs.batch(FIVES[:1]).values is batch.values, "a constant is one object for all batches"


def test_means_are_taken_over_the_data_that_is_given(precise: CompiledModel) -> None:
    others = random_prompts(lengths=[4, 6], seed=9)
    runs = FrozenRuns(precise, PROMPTS, ablation="mean", ablation_data=others)
    plain = oracle.plain_model(precise.model)
    rows = [torch.from_numpy(ids) for ids in others.clean_ids]
    expected = oracle.mean_said(plain, precise.universe, rows, per_position=False)["m1"]
    torch.testing.assert_close(runs.batch(FIVES).values.mlps[1].flatten(), expected, atol=1e-10, rtol=0)


def test_an_unknown_ablation(compiled: CompiledModel) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        FrozenRuns(compiled, PROMPTS, ablation="meen")
