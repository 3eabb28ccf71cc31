"""Fewer prompts at once where memory runs out, and the same results: filling, means, evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.memory.portions import Portions
from pruning.evaluation.evaluate import evaluate
from pruning.evaluation.tables import flat_row
from pruning.frozen.disk import DiskCache
from pruning.frozen.rows import Rows
from pruning.frozen.runs import FrozenRuns
from tests.pruning.prompts.small_prompts import random_prompts

# Of one length, and of a length with one prompt over.
PROMPTS = random_prompts(lengths=[5] * 8 + [4] * 3, n_asked=(1, 2))


@pytest.fixture
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(dtype=torch.float64), verify=False)


def cramp(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> list[int]:
    """Let a way of running a model run out of memory beyond some prompts; gives the sizes that it was asked for."""
    real, asked = getattr(CompiledModel, name), []

    def cramped(self, *arguments, **how):
        batch = next(part for part in arguments if hasattr(part, "input_ids"))
        asked.append(len(batch.input_ids))
        if asked[-1] > most:
            raise torch.OutOfMemoryError("out of memory, says the test")
        return real(self, *arguments, **how)

    monkeypatch.setattr(CompiledModel, name, cramped)
    return asked


class TestPortions:
    def test_halves_for_good_and_keeps_what_is_done(self, compiled: CompiledModel) -> None:
        tried: list[list[int]] = []

        def job(part: np.ndarray) -> int:
            tried.append(part.tolist())
            if len(part) > 4 or (len(part) > 1 and 5 in part):
                raise MemoryError
            return int(part.sum())

        portions = Portions(compiled, 8)
        assert portions.run(job, np.arange(8)) == [6, 4, 5, 6, 7]
        assert tried == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6], [7]]
        assert portions.most == 1 and portions.run(job, np.arange(2)) == [0, 1]

    def test_what_is_no_lack_of_memory_is_told(self, compiled: CompiledModel) -> None:
        def job(part: object) -> None:
            raise RuntimeError("shapes differ")

        with pytest.raises(RuntimeError, match="shapes differ"):
            Portions(compiled, 8).run(job, np.arange(8))
        with pytest.raises(RuntimeError, match="shapes differ"):
            Portions(compiled, 8).repeat(job)

    def test_one_prompt_that_does_not_fit_is_an_error(self, compiled: CompiledModel) -> None:
        def job(part: object) -> None:
            raise MemoryError

        portions = Portions(compiled, 8)
        with pytest.raises(MemoryError):
            portions.run(job, np.arange(8))
        assert portions.most == 1

    def test_a_job_done_anew(self, compiled: CompiledModel) -> None:
        def job(at_once: int) -> int:
            if at_once > 3:
                raise MemoryError
            return at_once

        assert Portions(compiled, 9).repeat(job) == 3  # 9, 5, 3


def test_rows_joined() -> None:
    """A part of one row takes what all share for a row of its own."""
    shared, x = torch.ones(1, 2), torch.arange(10).view(5, 2)
    two = Rows(tensors={"x": x[:2], "s": shared}, axes={"x": 0, "s": None})
    one = Rows(tensors={"x": x[4:], "s": shared}, axes={"x": 0, "s": 0})
    for parts, rows in (([two, one], [0, 1, 4]), ([one, two], [4, 0, 1])):
        joined = Rows.joined(parts)
        assert torch.equal(joined.tensors["x"], x[rows]) and torch.equal(joined.tensors["s"], shared)
        assert joined.axes == {"x": 0, "s": None}
    assert Rows.joined([one]) is one


@pytest.mark.parametrize("ablation", ["counterfactual", "mean"])
def test_filling_in_halves_keeps_the_same_runs(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch, ablation: str
) -> None:
    plenty = FrozenRuns(compiled, PROMPTS, ablation=ablation)
    asked = cramp(monkeypatch, "run_with_values" if ablation == "counterfactual" else "logits", 3)
    tight = FrozenRuns(compiled, PROMPTS, ablation=ablation)
    # The three of four tokens first; of the eight, four do not fit either.
    assert asked == [3, 8, 4, 2, 2, 2, 2]
    for members in plenty.by_length.values():
        one, other = plenty.batch(members), tight.batch(members)
        torch.testing.assert_close(one.teacher_logits, other.teacher_logits, atol=1e-12, rtol=0)
        for a, b in zip(one.values.mlps, other.values.mlps, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_means_in_halves_are_the_same(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = FrozenRuns(compiled, PROMPTS, ablation="mean", budget_bytes=0).constant
    real, sizes = CompiledModel.ablation_values, []

    def cramped(self, ablation, batches):
        batches = list(batches)
        sizes.append([len(batch.input_ids) for batch in batches])
        if sizes[-1][0] > 3:
            raise MemoryError
        return real(self, ablation, batches)

    monkeypatch.setattr(CompiledModel, "ablation_values", cramped)
    tight = FrozenRuns(compiled, PROMPTS, ablation="mean", budget_bytes=0, batch_size=8).constant
    assert sizes == [[8, 3], [4, 4, 3], [2, 2, 2, 2, 2, 1]]
    assert plenty is not None and tight is not None
    for a, b in zip(plenty.mlps, tight.mlps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_what_ran_in_halves_is_not_written(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file's key says which prompts ran together."""
    disk = DiskCache(folder=tmp_path, budget_bytes=1 << 30)
    asked = cramp(monkeypatch, "run_with_values", 2)
    FrozenRuns(compiled, PROMPTS, ablation="counterfactual", disk=disk, batch_size=2)
    written = len(list(tmp_path.rglob("*.safetensors")))
    assert written == 12 and max(asked) == 2, "four chunks of eight and two of three prompts, teacher and values"
    runs = FrozenRuns(compiled, PROMPTS, ablation="counterfactual", disk=disk, batch_size=4)
    assert runs.kept().memory == len(PROMPTS)
    # The full model's run of three was whole, the first of all; everything after it was not.
    assert len(list(tmp_path.rglob("*.safetensors"))) == written + 1


def test_evaluation_in_halves(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = np.random.default_rng(0).random(compiled.universe.n_edges) < 0.5
    circuit = Circuit.from_edges(compiled.universe, kept)
    whole = evaluate(compiled, circuit, PROMPTS, n_random=1)
    asked = cramp(monkeypatch, "masked", 2)
    halves = evaluate(compiled, circuit, PROMPTS, n_random=1)
    assert max(asked) == 3 and asked.count(1) == 4, "three do not fit, two and one do"
    for role, metrics in whole.metrics.items():
        expected = flat_row(halves.metrics[role], intervals=True)
        assert flat_row(metrics, intervals=True) == pytest.approx(expected, abs=1e-12), role
    pd.testing.assert_frame_equal(whole.examples, halves.examples)
