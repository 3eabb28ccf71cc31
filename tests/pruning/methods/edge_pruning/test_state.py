"""The state of a run: a trainer that goes on from it ends with the bits of one that never stopped, by any recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

import pruning.execution.replay
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.execution.step_settings import StepSettings
from pruning.frozen.constants import begun_at
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.state import TrainingState
from pruning.methods.edge_pruning.train import Trainer
from tests.pruning.execution.test_memory_saving import Cramped
from tests.pruning.methods.edge_pruning.test_nested import NESTED
from tests.pruning.methods.edge_pruning.test_train import BUDGET, LAGRANGIAN, RECIPES, break_at, curve, learnt
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 5, 4, 5, 4, 4, 4], n_asked=(1,))
STEPS = 10
CASES: dict[str, tuple[Recipe, dict]] = {
    **{name: (recipe, {}) for name, recipe in RECIPES.items()},
    "nested": (NESTED, {}),
    "draws": (replace(LAGRANGIAN, batch_size=4, draws=3, balance_lengths=True, settle_steps=3), {"micro_batch": 1}),
    "sharpened": (replace(BUDGET, sharpen=5.0, ramp_steps=3, batch_size=4, draws=2), {}),
    "zero": (replace(BUDGET, weight_decay=0.01), {"ablation": "zero", "recompute": True}),
    "optimal": (replace(BUDGET, warmup_steps=3), {"ablation": "optimal"}),
    "replayed": (replace(LAGRANGIAN, batch_size=4), {"replay": True}),
}


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


def trainer_of(
    compiled: CompiledModel, recipe: Recipe, *, ablation: str = "counterfactual", state: TrainingState | None = None,
    say=lambda line: None, **how,
) -> Trainer:  # fmt: skip
    frozen = FrozenRuns(compiled, PROMPTS, ablation=ablation, ablation_data=begun_at(compiled, ablation, PROMPTS))
    recipe, settings = replace(recipe, steps=STEPS, warm_start_batches=1), StepSettings(**how)
    return Trainer(compiled, frozen, recipe, objective="kl", seed=3, how=settings, say=say, state=state)


def on_disk(state: TrainingState) -> TrainingState:
    """The state as it comes back from files."""
    from safetensors.torch import load, save

    tensors, values = state.packed()
    return TrainingState.unpacked(load(save(tensors)), json.loads(json.dumps(values)))


def same(one: TrainingState, other: TrainingState) -> bool:
    (tensors, values), (others, other_values) = one.packed(), other.packed()
    assert set(tensors) == set(others)
    unlike = [name for name in tensors if name != "record.seconds" and not torch.equal(tensors[name], others[name])]
    return not unlike and {**values, "seconds": 0} == {**other_values, "seconds": 0}


def stopped_after(n: int) -> Callable:
    def watch(record) -> None:
        if record.step == n - 1:
            raise KeyboardInterrupt

    return watch


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_that_goes_on_ends_with_the_same_bits(compiled: CompiledModel, name: str) -> None:
    recipe, how = CASES[name]
    undisturbed = trainer_of(compiled, recipe, **how)
    whole, states = train(undisturbed, checkpoints=(kept := Kept())), kept.states
    first = trainer_of(compiled, recipe, **how)
    run = train(first, stopped_after(4), checkpoints=(kept := Kept()))
    assert run.interrupted and kept.states[-1].steps == 4 and same(kept.states[-1], states[3])
    again = trainer_of(compiled, recipe, state=on_disk(kept.states[-1]), **how)
    assert same(again.state(), states[3])
    rest = train(again, checkpoints=(kept := Kept()))
    assert len(kept.states) == 7 and all(map(same, kept.states, [*states[4:10], states[9]]))
    assert curve(rest) == curve(whole) and len(rest.records) == STEPS
    for a, b in zip(learnt(rest), learnt(whole), strict=True):
        assert torch.equal(a, b)
    seconds = [record.seconds for record in rest.records]
    assert seconds == sorted(seconds)


class Kept:
    """Keeps the states of a run in memory."""

    def __init__(self) -> None:
        self.states: list[TrainingState] = []

    def after_step(self, state: TrainingState) -> None:
        self.states.append(state)

    keep = after_step


PARTS = ["parameters", "optimiser", "ascent", "multipliers", "generator", "order", "constants"]


@pytest.mark.parametrize("missing", PARTS)
def test_each_part_of_the_state_matters(compiled: CompiledModel, missing: str) -> None:
    """Else the comparison above would prove nothing of it."""
    recipe = replace(LAGRANGIAN, batch_size=3)
    how = {"ablation": "optimal"} if missing == "constants" else {}
    whole = train(trainer_of(compiled, recipe, **how))
    first = trainer_of(compiled, recipe, **how)
    fresh = first.state()
    train(first, stopped_after(4))
    state = replace(first.state(), **{missing: getattr(fresh, missing)})
    rest = train(trainer_of(compiled, recipe, state=state, **how))
    assert curve(rest) != curve(whole)


def test_a_state_is_a_copy(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, LAGRANGIAN)
    trainer.step(0)
    state = trainer.state()
    before = on_disk(state)
    for index in range(1, 4):
        trainer.step(index)
    assert same(state, before) and not same(trainer.state(), state)
    trainer.restore(state)
    trainer.step(1)
    assert same(state, before)


def test_going_on_begins_without_a_warm_start(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(compiled, BUDGET)
    monkeypatch.setattr(Trainer, "_warm_start", lambda *_: pytest.fail("warm start"))
    again = trainer_of(compiled, BUDGET, state=trainer.state())
    assert same(again.state(), trainer.state())


@pytest.mark.parametrize("name", ["budget", "sharpened", "draws"])
def test_what_ends_a_step_halfway_leaves_the_state_before_it(compiled: CompiledModel, name: str) -> None:
    """Gates are shifted, numbers and prompts are drawn by then."""
    recipe, how = CASES[name]
    train(trainer_of(compiled, recipe, **how), checkpoints=(whole := Kept()))
    for error in (KeyboardInterrupt, RuntimeError):
        trainer = trainer_of(compiled, recipe, **how)

        def fail(value, error=error):
            raise error

        seen = break_at(trainer, 5, fail)
        run = train(trainer, checkpoints=(kept := Kept()))
        assert 0 < len(run.records) == kept.states[-1].steps <= 5 and len(seen) == 6
        assert same(kept.states[-1], whole.states[len(run.records) - 1])


def test_a_signal_within_the_optimiser_leaves_the_state_before_the_step(
    compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(trainer_of(compiled, LAGRANGIAN), checkpoints=(whole := Kept()))
    trainer = trainer_of(compiled, LAGRANGIAN)
    step, calls = trainer.ascent.step, []

    def interrupted():
        calls.append(1)
        if len(calls) == 6:  # the gates have moved, the multipliers have not
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(trainer.ascent, "step", interrupted)
    run = train(trainer, checkpoints=(kept := Kept()))
    assert run.interrupted and same(kept.states[-1], whole.states[4])
    assert torch.equal(trainer.gates.log_alpha.detach(), whole.states[4].parameters[0])


def test_less_memory_is_remembered(compiled: CompiledModel) -> None:
    recipe, said = replace(LAGRANGIAN, batch_size=4), []

    def cramped(state: TrainingState | None = None, most: int = 1) -> Trainer:
        trainer = trainer_of(compiled, recipe, say=said.append, state=state)
        trainer.runner.compiled = Cramped(compiled, most)  # type: ignore[assignment]
        return trainer

    whole = train(cramped())
    assert len(said) == 2
    first = cramped()
    train(first, stopped_after(4))
    said.clear()
    again = cramped(on_disk(first.state()), most=4)
    assert again.runner.micro_batch == 1
    rest = train(again)
    assert said == [] and curve(rest) == curve(whole) and torch.equal(learnt(rest)[0], learnt(whole)[0])


def test_a_plan_made_again_is_the_plan(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are not replayed, plans made anew, and recordings that were refused stay so."""
    for name, value in {"MOST_RECORDINGS": 1, "PATIENCE": 2, "LOOK_EVERY": 3, "WORTH": 1.1}.items():
        monkeypatch.setattr(pruning.execution.replay, name, value)
    recipe = replace(LAGRANGIAN, batch_size=3, init_mean=-2.0, init_std=4.0, learning_rate=3.0)
    train(trainer_of(compiled, recipe, replay=True), checkpoints=(whole := Kept()))
    plans = [state.runner.replays for state in whole.states]
    assert len({plan.age for plan in plans if plan}) > 1 and any(plan.keys for plan in plans if plan)
    assert len({plan.planned.tobytes() for plan in plans if plan and plan.planned is not None}) > 1
    for n in range(1, STEPS, 2):
        again = trainer_of(compiled, recipe, replay=True, state=on_disk(whole.states[n - 1]))
        made, kept = again.runner._replays, plans[n - 1]
        assert made is not None and kept is not None and kept.planned is not None
        assert np.array_equal(made._plan_now.open_edges, made._planned(kept.planned).open_edges)
        train(again, checkpoints=(rest := Kept()))
        assert all(map(same, rest.states, whole.states[n:]))


def test_without_a_plan_yet(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, LAGRANGIAN, replay=True)
    state = on_disk(trainer.state())
    assert state.runner.replays is not None and state.runner.replays.planned is None and state.steps == 0
    again = train(trainer_of(compiled, LAGRANGIAN, replay=True, state=state))
    assert curve(again) == curve(train(trainer))
