"""Replayed steps: the numbers of the plain way, whatever the gates and the prompts, and the plain way where they miss.

Off CUDA a recording is run anew by its fixed plan, so everything but the graph itself is proven here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import pruning.execution.replay
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.execution.batch_run import BatchRunner, Share
from pruning.execution.objectives import objective_named
from pruning.execution.step_settings import StepSettings
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.gates import sample_hard_concrete
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.train import Trainer
from tests.oracles.cases import as_mistral
from tests.pretend_device import PretendDevice
from tests.pruning.methods.edge_pruning.test_train import BUDGET, LAGRANGIAN, learnt
from tests.pruning.prompts.small_prompts import random_prompts

LENGTHS = [5] * 5 + [7] * 4
PROMPTS = random_prompts(lengths=LENGTHS, n_asked=(2,), wrong=True)
KINDS = ["gpt2", "llama", "mistral"]


def compiled_of(kind: str, tiny_gpt2, tiny_llama) -> CompiledModel:
    model = tiny_gpt2(n_layers=3) if kind == "gpt2" else tiny_llama(n_layers=3, dtype=torch.float64)
    return compile_model((as_mistral(model) if kind == "mistral" else model).double(), verify=False)


def shares_of(draw: Tensor, prompts: list[int], likely: Tensor | None = None) -> list[Share]:
    return [
        Share(
            prompts=np.array(prompts), gates=draw, wanted=(draw > 0) & (draw < 1),
            likely=None if likely is None else lambda: likely,
        )
    ]  # fmt: skip


class Ways:
    """The plain way and the replayed one, over the same frozen runs, in float64; gates, z and z − 1, are float32."""

    def __init__(self, compiled: CompiledModel, *, ablation: str = "counterfactual", objective: str = "kl", **frozen):
        runs = FrozenRuns(compiled, PROMPTS, ablation=ablation, **frozen)
        self.n_edges = compiled.universe.n_edges
        self.said: list[str] = []
        self.plain = BatchRunner(compiled, runs, objective_named(objective), micro_batch=4)
        self.replaying = BatchRunner(
            compiled, runs, objective_named(objective), micro_batch=4, replay=True, say=self.said.append
        )
        self.draws = torch.Generator().manual_seed(0)

    def draw(self, mean: float, spread: float = 4.0) -> Tensor:
        log_alpha = torch.randn(self.n_edges, generator=self.draws) * spread + mean
        return sample_hard_concrete(log_alpha, self.draws)

    def compare(self, draw: Tensor, prompts: list[int], likely: Tensor | None = None) -> None:
        shares = shares_of(draw, prompts, likely)
        expected, found = self.plain.run(shares), self.replaying.run(shares)
        assert float(found.objective) == pytest.approx(float(expected.objective), rel=1e-6)
        wanted = shares[0].wanted
        torch.testing.assert_close(found.gradients[0][wanted], expected.gradients[0][wanted], atol=1e-7, rtol=1e-6)

    @property
    def replayed(self) -> bool:
        replays = self.replaying._replays
        assert replays is not None
        return replays._fits and bool(replays._recordings)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.15], ids=lambda share: f"{share} of the edges")
@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_replayed_is_what_the_plain_way_says(kind: str, ablation: str, share: float, tiny_gpt2, tiny_llama):
    ways = Ways(compiled_of(kind, tiny_gpt2, tiny_llama), ablation=ablation)
    likely = torch.rand(ways.n_edges, generator=ways.draws) < share
    # Whole batches and parts, both lengths; gradients and gates are float32.
    for prompts in ([0, 1, 2, 3], [4, 2, 0, 1], [8, 6], [0, 3, 1]):
        ways.compare(ways.draw(1.0) * likely, prompts, likely)
        assert ways.replayed
    replays = ways.replaying._replays
    assert replays is not None and len(replays._recordings) == 3
    counts = ways.replaying.frozen.drawn
    assert counts.memory == counts.total > 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["kl-top1", "logit-diff", "cross-entropy", "mse", "position-kl"])
def test_every_objective(objective: str, tiny_gpt2, tiny_llama):
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama), objective=objective)
    for prompts in ([0, 1, 2, 3], [3, 1, 4, 2]):
        ways.compare(ways.draw(1.0), prompts, torch.ones(ways.n_edges, dtype=torch.bool))
        assert ways.replayed


@pytest.mark.parametrize("frozen", [{"budget_bytes": 24_000, "batch_size": 2}, {"teacher_top_k": 5}])
def test_frozen_runs_in_any_form(frozen: dict, tiny_gpt2, tiny_llama):
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama), **frozen)
    assert "budget_bytes" not in frozen or ways.plain.frozen.short
    ways.compare(ways.draw(1.0), [0, 1, 2, 3])
    assert ways.replayed


def test_prompts_that_memory_does_not_hold_go_the_plain_way(tiny_gpt2, tiny_llama):
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama), budget_bytes=0)
    ways.compare(ways.draw(1.0), [0, 1, 2, 3])
    assert not ways.replayed


def test_prompts_that_ask_different_positions_go_the_plain_way(tiny_gpt2, tiny_llama):
    compiled = compiled_of("gpt2", tiny_gpt2, tiny_llama)
    runs = FrozenRuns(compiled, random_prompts(lengths=[5, 5, 6, 6], n_asked=(1, 2, 1, 1)), ablation="counterfactual")
    assert runs.group(5) is None
    group = runs.group(6)
    assert group is not None and group.members.tolist() == [2, 3] and group.asked.tolist() == [5]


def test_a_group_starts_where_its_first_prompt_differs(tiny_gpt2, tiny_llama):
    compiled = compiled_of("gpt2", tiny_gpt2, tiny_llama)
    prompts = random_prompts(lengths=[6, 6], n_asked=(1,))
    corrupted = [ids.copy() for ids in prompts.clean_ids]
    corrupted[0][3] = (corrupted[0][3] + 1) % 29
    corrupted[1][2] = (corrupted[1][2] + 1) % 29
    prompts = replace(prompts, corrupted_ids=tuple(corrupted))
    group = FrozenRuns(compiled, prompts, ablation="counterfactual").group(6)
    assert group is not None and group.first_differing == 2
    index = torch.tensor([1, 0, 1])
    picked, made = group.batch(index).pairs, prompts.batch([1, 0, 1])
    for name in ("input_ids", "attention_mask", "predict_index", "predict_prompt"):
        assert torch.equal(getattr(picked.clean, name), getattr(made.clean, name))
        assert torch.equal(getattr(picked.corrupted, name), getattr(made.corrupted, name))
    assert torch.equal(picked.answer_ids, made.answer_ids) and torch.equal(picked.index, made.index)


def test_a_step_that_needs_more_goes_the_plain_way_until_the_plan_is_made_anew(tiny_gpt2, tiny_llama, monkeypatch):
    monkeypatch.setattr(pruning.execution.replay, "PATIENCE", 3)
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama))
    universe = ways.plain.compiled.universe

    def gates(*names: str) -> Tensor:
        kept = torch.zeros(ways.n_edges)
        kept[[universe.edge_index(*name.split("->")) for name in names]] = 1
        return kept

    few = gates("input->m0", "m0->logits")
    more = gates("input->m0", "m0->m2", "m2->logits")
    assert [went(ways, few), went(ways, more), went(ways, more), went(ways, more), went(ways, few)] == [
        True, False, False, True, True,
    ]  # fmt: skip
    dangling = gates("input->m0", "m0->logits", "input->m1")
    ways.compare(dangling, [0, 1])
    assert ways.replayed, "an edge that leads nowhere asks for nothing"


def went(ways: Ways, gates: Tensor) -> bool:
    ways.compare(gates, [0, 1, 2, 3])
    return ways.replayed


def test_a_plan_that_provides_for_too_much_is_made_anew(tiny_gpt2, tiny_llama, monkeypatch):
    monkeypatch.setattr(pruning.execution.replay, "LOOK_EVERY", 4)
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama))
    replays = ways.replaying._replays
    assert replays is not None
    ways.compare(torch.ones(ways.n_edges), [0, 1])
    sizes = []
    for _ in range(5):
        ways.compare(ways.draw(-9.0, 5.0), [0, 1])
        sizes.append(pruning.execution.replay._size_of(replays._plan_now))
    assert sizes[0] == sizes[2] > sizes[-1] * 1.25


@pytest.mark.slow
def test_training_learns_the_same(tiny_gpt2, tiny_llama):
    compiled = compiled_of("llama", tiny_gpt2, tiny_llama)
    for recipe in (LAGRANGIAN, replace(BUDGET, warm_start="none", draws=2, batch_size=4)):
        runs = [
            train(
                Trainer(
                    compiled, FrozenRuns(compiled, PROMPTS, ablation="counterfactual"), recipe, objective="kl",
                    seed=0, how=StepSettings(replay=replay),
                )
            )
            for replay in (False, True)
        ]  # fmt: skip
        for a, b in zip(learnt(runs[0]), learnt(runs[1]), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_weights_that_moved_are_recorded_anew(tiny_gpt2, tiny_llama):
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama))
    draw = ways.draw(2.0)
    ways.compare(draw, [0, 1])
    replays = ways.replaying._replays
    assert replays is not None
    (first,) = replays._recordings.values()
    with torch.no_grad():
        for weight in ways.plain.compiled.model.parameters():
            weight.data = weight.data.clone()
    ways.compare(draw, [0, 1])
    assert next(iter(replays._recordings.values())) is not first


def test_a_recording_that_fails_is_told_and_done_without(tiny_gpt2, tiny_llama, monkeypatch):
    def fail(self, body):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(pruning.execution.replay.Replays, "record", fail)
    ways = Ways(compiled_of("gpt2", tiny_gpt2, tiny_llama))
    for _ in range(2):
        ways.compare(ways.draw(2.0), [0, 1])
    assert ways.said == [
        "steps are not recorded (operation not permitted when stream is capturing): going on without, slower"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_on_a_device_a_replayed_step_waits_once(kind: str, tiny_gpt2, tiny_llama):
    make = {"gpt2": tiny_gpt2, "llama": tiny_llama}[kind]
    with PretendDevice() as device:
        compiled = compile_model(device.send_model(make()), verify=False)
        runs = FrozenRuns(compiled, PROMPTS, ablation="counterfactual")
        recipe, how = replace(LAGRANGIAN, batch_size=4), StepSettings(replay=True)
        trainer = Trainer(compiled, runs, recipe, objective="kl", seed=0, how=how)
        for index in range(3):
            trainer.step(index)
        device.waits.clear()
        assert trainer.step(3).undecided > 0
        assert len(device.waits) == 1, device.waits
        replays = trainer.runner._replays
        assert replays is not None and replays._recordings and replays._fits
