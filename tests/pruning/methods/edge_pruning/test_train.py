"""The training loop: the same bits for the same seed, stops that keep what was learnt, multipliers that ascend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import pruning.methods.edge_pruning.train
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.loop import TrainingRun, train
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.state import StepRecord
from pruning.methods.edge_pruning.train import Trainer
from tests.pruning.methods.edge_pruning.test_budget import mean_gate
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

PROMPTS = random_prompts(lengths=[4, 5, 4, 5, 4, 4], n_asked=(1, 2))
LAGRANGIAN = Recipe(
    name="test", steps=12, ramp_steps=8, warmup_steps=2, learning_rate=0.3, multiplier_rate=0.1,
    target_sparsity=0.8, init_mean=1.0, init_std=0.5, batch_size=2,
)  # fmt: skip
BUDGET = replace(LAGRANGIAN, control="budget", start_sparsity=0.3, warm_start="gate-importance", keep="target")
RECIPES = {
    "lagrangian": LAGRANGIAN,
    "budget": BUDGET,
    "writers": replace(LAGRANGIAN, writer_gates=True, writer_target=0.4, weight_decay=0.01),
}


@pytest.fixture(scope="module")
def compiled(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


def trainer_of(compiled: CompiledModel, recipe: Recipe, *, seed: int = 0, ablation: str = "counterfactual") -> Trainer:
    frozen = FrozenRuns(compiled, PROMPTS, ablation=ablation)
    return Trainer(compiled, frozen, recipe, objective="kl", seed=seed)


def learnt(run: TrainingRun) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in run.gates.parameters]


def curve(run: TrainingRun) -> list[StepRecord]:
    return [replace(record, seconds=0.0) for record in run.records]


# ---------------------------------------------------------------- seeds and state


@pytest.mark.parametrize("name", [pytest.param("budget", marks=pytest.mark.slow), "lagrangian", "writers"])
def test_the_same_seed_gives_the_same_bits(compiled: CompiledModel, name: str) -> None:
    torch.manual_seed(1)
    state = GlobalRandomState()
    first = train(trainer_of(compiled, RECIPES[name]))
    state.assert_untouched()
    torch.manual_seed(2)  # must not matter
    again = train(trainer_of(compiled, RECIPES[name]))
    other = train(trainer_of(compiled, RECIPES[name], seed=1))
    for a, b, c in zip(learnt(first), learnt(again), learnt(other), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert curve(first) == curve(again) != curve(other)
    assert len(first.records) == 12 and not first.interrupted and first.stopped_by == ""


def test_the_seed_decides_start_gates_and_batches(compiled: CompiledModel) -> None:
    zero, one = (trainer_of(compiled, LAGRANGIAN, seed=seed) for seed in (0, 1))
    assert not torch.equal(zero.gates.log_alpha, one.gates.log_alpha)
    same_place = [trainer.gates.sample(trainer.generator).edges for trainer in (zero, one)]
    assert not torch.equal(*same_place)
    orders = [[trainer.order.next().tolist() for _ in range(6)] for trainer in (zero, one)]
    assert orders[0] != orders[1]


def test_the_users_model_is_left_as_it_was(tiny_gpt2) -> None:
    model = tiny_gpt2().train()
    model.transformer.h[0].attn.c_attn.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    train(trainer_of(compile_model(model, verify=False), replace(LAGRANGIAN, steps=3)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == asked
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
def test_gates_descend_along_the_objective(compiled: CompiledModel) -> None:
    """With next to no pressure towards fewer edges the circuit comes closer to the full model."""
    run = train(trainer_of(compiled, replace(LAGRANGIAN, steps=60, multiplier_rate=1e-6)))
    objective = [record.objective for record in run.records]
    assert sum(objective[-15:]) < 0.5 * sum(objective[:15])


# ---------------------------------------------------------------- what a step records


def test_records_tell_the_schedule_and_the_loss(compiled: CompiledModel) -> None:
    run = train(trainer_of(compiled, LAGRANGIAN))
    assert [record.step for record in run.records] == list(range(12))
    expected = [0.8 * min(step / 8, 1) for step in range(12)]
    assert [record.target for record in run.records] == pytest.approx(expected)
    seconds = [record.seconds for record in run.records]
    assert seconds == sorted(seconds) and seconds[0] > 0
    before = [(0.0, 0.0), *((r.lambda1, r.lambda2) for r in run.records[:-1])]
    for record, (one, two) in zip(run.records, before, strict=True):
        gap = record.sparsity - record.target
        assert record.loss == pytest.approx(record.objective + one * gap + two * gap * gap, abs=1e-5)
        assert record.objective >= 0 and 0 <= record.sparsity <= 1
        assert 0 <= record.live_heads <= 6 and 0 <= record.live_mlps <= 2


def test_multipliers_ascend(compiled: CompiledModel) -> None:
    """Too few edges cut: λ₁ falls, so that the loss falls with the sparsity's rise; λ₂ rises either way."""
    dense = replace(LAGRANGIAN, init_mean=8.0, init_std=0.01, ramp_steps=0, steps=5, learning_rate=1e-6)
    sparse = replace(dense, init_mean=-8.0, target_sparsity=0.2)
    for recipe, sign in ((dense, -1), (sparse, 1)):
        records = train(trainer_of(compiled, recipe)).records
        assert all((r.sparsity - r.target) * sign > 0 for r in records)
        assert all(r.lambda1 * sign > 0 and r.lambda2 > 0 for r in records)
        assert abs(records[-1].lambda1) > abs(records[0].lambda1)
    # Adam's first step is its learning rate in full: 0.1 · ½ of the warm-up.
    assert abs(records[0].lambda1) == pytest.approx(0.05, rel=1e-3)


@pytest.mark.slow
def test_multipliers_drive_the_sparsity_up(compiled: CompiledModel) -> None:
    """Without an objective the gates follow the multipliers alone, up to the target."""
    trainer = trainer_of(compiled, replace(LAGRANGIAN, steps=150, ramp_steps=20, multiplier_rate=1.0, init_std=0.01))
    trainer.runner.objective = lambda logits, teacher, batch: logits.sum() * 0.0
    run = train(trainer)
    assert run.records[0].sparsity < 0.4
    last = [record.sparsity for record in run.records[-40:]]
    assert 0.65 < sum(last) / len(last) < 1


def test_the_budget_is_held_at_every_step(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, BUDGET)
    n_edges = compiled.universe.n_edges
    expected = []
    run = train(trainer)
    for step in range(12):
        expected.append(0.3 + 0.5 * min(step / 8, 1))
    assert [record.target for record in run.records] == pytest.approx(expected)
    kept = sum(mean_gate(alpha) for alpha in trainer.gates.log_alpha.tolist())
    assert kept == pytest.approx(0.2 * n_edges, rel=0.01)
    sparsity = [record.sparsity for record in run.records]
    assert sum(sparsity) / 12 == pytest.approx(sum(expected) / 12, abs=0.06)
    assert all(record.lambda1 == record.lambda2 == 0 for record in run.records)


def test_the_budget_counts_frozen_removed_and_tied_edges(compiled: CompiledModel) -> None:
    graph = build_graph(compiled.universe)
    graph.remove_node("m0")
    for _, _, data in graph.in_edges("logits", data=True):
        data["frozen"] = True
    for head in range(3):
        for port in "kv":
            graph.edges["input", f"a0.h{head}<{port}>"]["mask"] = graph.edges["input", f"a0.h{head}<q>"]["mask"]
    edited = compiled.with_graph(graph)
    gate_map: GateMap = edited.gate_map
    trainer = trainer_of(edited, replace(BUDGET, target_sparsity=0.6))
    train(trainer)
    weights = gate_map.edges_per_parameter
    kept = gate_map.n_frozen + sum(
        w * mean_gate(a) for a, w in zip(trainer.gates.log_alpha.tolist(), weights, strict=True)
    )
    assert max(weights) == 3 and gate_map.n_frozen == 8
    assert kept == pytest.approx(0.4 * compiled.universe.n_edges, rel=0.01)


# ---------------------------------------------------------------- early ends


def break_at(trainer: Trainer, step: int, how: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
    """Let the objective go wrong at a step; returns the parameters seen at each step so far."""
    inner, seen = trainer.runner.objective, []

    def objective(logits: Tensor, teacher: Tensor, batch) -> Tensor:
        seen.append([parameter.detach().clone() for parameter in trainer.gates.parameters])
        value = inner(logits, teacher, batch)
        return how(value) if len(seen) == step + 1 else value

    trainer.runner.objective = objective
    return seen


class NanGradient(torch.autograd.Function):
    """A value as it is, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


@pytest.mark.parametrize("how", [lambda v: v * float("nan"), lambda v: v + float("inf"), NanGradient.apply])
@pytest.mark.parametrize("step", [0, 5])
def test_what_is_not_finite_stops_and_keeps_the_last_good_state(compiled: CompiledModel, how, step: int) -> None:
    trainer = trainer_of(compiled, LAGRANGIAN)
    seen = break_at(trainer, step, how)
    run = train(trainer)
    assert len(run.records) == step and not run.interrupted
    assert f"step {step}:" in run.stopped_by and "not finite" in run.stopped_by
    for now, good in zip(learnt(run), seen[-1], strict=True):
        assert torch.equal(now, good) and bool(torch.isfinite(now).all())


def test_control_c_gives_back_what_was_learnt(compiled: CompiledModel) -> None:
    whole = train(trainer_of(compiled, LAGRANGIAN))

    def watch(record: StepRecord) -> None:
        if record.step == 6:
            raise KeyboardInterrupt

    run = train(trainer_of(compiled, LAGRANGIAN), watch)
    assert run.interrupted and "after 7 steps" in run.stopped_by
    assert curve(run) == curve(whole)[:7]
    short = trainer_of(compiled, LAGRANGIAN)
    for index in range(7):
        short.step(index)
    assert torch.equal(learnt(run)[0], short.gates.log_alpha.detach())


def test_control_c_within_a_step(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, BUDGET)

    def interrupt(value: Tensor) -> Tensor:
        raise KeyboardInterrupt

    break_at(trainer, 4, interrupt)
    run = train(trainer)
    assert run.interrupted and len(run.records) == 4
    # The gates hold the budget of the last whole step.
    kept = sum(mean_gate(alpha) for alpha in trainer.gates.log_alpha.tolist())
    assert kept == pytest.approx((1 - run.records[-1].target) * compiled.universe.n_edges, rel=0.01)


def test_every_step_is_watched(compiled: CompiledModel) -> None:
    seen: list[StepRecord] = []
    run = train(trainer_of(compiled, LAGRANGIAN), seen.append)
    assert tuple(seen) == run.records


def test_rates_follow_the_schedule(compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(compiled, LAGRANGIAN)
    rates = []
    plain = pruning.methods.edge_pruning.train.rate_at
    monkeypatch.setattr(
        pruning.methods.edge_pruning.train, "rate_at", lambda *a, **k: rates.append(plain(*a, **k)) or rates[-1]
    )
    for index in range(12):
        trainer.step(index)
        assert trainer.optimiser.param_groups[0]["lr"] == pytest.approx(0.3 * rates[-1])
        assert trainer.ascent.param_groups[0]["lr"] == pytest.approx(0.1 * rates[-1])
    assert rates == pytest.approx([0.5, 1, *[(12 - s) / 10 for s in range(2, 12)]])


# ---------------------------------------------------------------- settling


def test_alpha_stretch_after_the_ramp_by_the_factor_in_all(compiled: CompiledModel) -> None:
    """Shifts keep differences of α; with no learning to speak of, only the stretching is left."""
    trainer = trainer_of(compiled, replace(BUDGET, sharpen=5.0, learning_rate=1e-9))
    before = trainer.gates.log_alpha.detach().clone().double()
    for step in range(BUDGET.ramp_steps):
        trainer.step(step)
    ramped = trainer.gates.log_alpha.detach().clone().double()
    torch.testing.assert_close(ramped.diff(), before.diff(), atol=1e-4, rtol=1e-4)
    for step in range(BUDGET.ramp_steps, BUDGET.steps):
        trainer.step(step)
    after = trainer.gates.log_alpha.detach().double()
    torch.testing.assert_close(after.diff(), 5 * before.diff(), atol=1e-4, rtol=1e-4)


def test_a_target_below_the_start_of_the_ramp_is_held_from_the_first_step(compiled: CompiledModel) -> None:
    run = train(trainer_of(compiled, replace(BUDGET, target_sparsity=0.2)))
    assert [record.target for record in run.records] == pytest.approx([0.2] * BUDGET.steps)


# ---------------------------------------------------------------- several draws


def gates_drawn(alpha: Tensor, noise: Tensor) -> Tensor:
    """Hard-concrete gates, from their definition."""
    u = noise.clamp(1e-6, 1 - 1e-6)
    return (torch.sigmoid((u.log() - (1 - u).log() + alpha) * 3 / 2) * 1.2 - 0.1).clamp(0, 1)


def gradient_of(compiled: CompiledModel, trainer: Trainer, noise: Tensor, prompts: list[int], share: float) -> Tensor:
    """The gradient in α of a share's objective, from the definition of the gates, with autograd all the way."""
    alpha = trainer.gates.log_alpha.detach().clone().requires_grad_()
    gates = gates_drawn(alpha, noise)
    batch = trainer.runner.frozen.batch(np.array(prompts))
    ran = compiled.masked(gates, batch.pairs.clean, batch.values)
    loss = trainer.runner.objective(ran.logits, batch.teacher, batch.pairs) * share
    return torch.autograd.grad(loss, alpha)[0]


def test_each_draw_has_its_share_of_the_batch(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, replace(LAGRANGIAN, batch_size=3, draws=2))
    trainer.order.next = lambda: np.array([0, 2, 4])  # type: ignore[method-assign]
    torch.nn.init.constant_(trainer.multipliers, 0.0)
    generator = torch.Generator().set_state(trainer.generator.get_state())
    first, second = (torch.rand(compiled.universe.n_edges, generator=generator) for _ in range(2))
    expected = gradient_of(compiled, trainer, first, [0, 2], 2 / 3) + gradient_of(compiled, trainer, second, [4], 1 / 3)
    one_draw = gradient_of(compiled, trainer, first, [0, 2, 4], 1.0)
    trainer._move = lambda: None  # type: ignore[method-assign]
    record = trainer.step(0)
    found = trainer.gates.log_alpha.grad
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert float((found - one_draw).norm()) > 0.02 * float(found.norm())
    alpha = trainer.gates.log_alpha.detach()
    drawn = [gates_drawn(alpha, noise) for noise in (first, second)]
    assert record.sparsity == pytest.approx(1 - float(torch.stack(drawn).mean()), abs=1e-5)
    undecided = [int(((gates > 0) & (gates < 1)).sum()) for gates in drawn]
    assert record.undecided == round(sum(undecided) / 2) and undecided[0] != undecided[1]


def test_a_batch_smaller_than_the_draws_takes_the_first_of_them(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, replace(LAGRANGIAN, batch_size=4, draws=4))
    seen: list[int] = []
    run = trainer.runner.run
    trainer.runner.run = lambda shares: seen.append(len(shares)) or run(shares)  # type: ignore[method-assign]
    trainer.order.next = lambda: np.array([0, 2])  # type: ignore[method-assign]
    before = trainer.generator.get_state()
    trainer.step(0)
    assert seen == [2]
    torch.rand(compiled.universe.n_edges * 4, generator=(generator := torch.Generator().set_state(before)))
    # As many numbers are drawn in every step, so that later steps do not hang on the sizes of earlier batches.
    assert torch.equal(generator.get_state(), trainer.generator.get_state())


# ---------------------------------------------------------------- steps without pressure


def test_the_last_steps_follow_the_objective_alone(compiled: CompiledModel) -> None:
    trainer = trainer_of(compiled, replace(LAGRANGIAN, settle_steps=4))
    lambdas = [(record.lambda1, record.lambda2) for record in train(trainer).records]
    assert len(set(lambdas[:8])) == 8 and len(set(lambdas[7:])) == 1 and lambdas[-1] != (0, 0)
    trainer = trainer_of(compiled, replace(LAGRANGIAN, settle_steps=4))
    torch.nn.init.constant_(trainer.multipliers, 100.0)
    trainer._move = lambda: None  # type: ignore[method-assign]
    noise = torch.rand(compiled.universe.n_edges, generator=torch.Generator().set_state(trainer.generator.get_state()))
    trainer.order.next = lambda: np.array([0, 2])  # type: ignore[method-assign]
    objective = gradient_of(compiled, trainer, noise, [0, 2], 1.0)
    state = trainer.generator.get_state()
    for step, presses in ((7, True), (8, False)):
        trainer.generator.set_state(state)
        record = trainer.step(step)
        assert trainer.gates.log_alpha.grad is not None
        off = float((trainer.gates.log_alpha.grad - objective).norm()) / float(objective.norm())
        assert (off > 1) == presses and (abs(record.loss - record.objective) > 1) == presses
        assert presses or off < 1e-4


def test_damping_leaves_gates_alone_that_hardly_matter(compiled: CompiledModel) -> None:
    """A first step of Adam is `rate · g / (|g| + damping)`; as a share of the rate, written out."""
    plain, damped = (trainer_of(compiled, replace(BUDGET, damping=damping)) for damping in (1e-8, 1e-3))
    moved = []
    for trainer in (plain, damped):
        before = trainer.gates.log_alpha.detach().clone()
        trainer.recipe = replace(trainer.recipe, control="lagrangian", ramp_steps=1, steps=2, settle_steps=2)
        trainer.step(0)
        assert trainer.gates.log_alpha.grad is not None
        rate = trainer.optimiser.param_groups[0]["lr"]
        moved.append((trainer.gates.log_alpha.detach() - before) / rate)
    gradient = plain.gates.log_alpha.grad
    assert gradient is not None and 0 < float(gradient.abs()[gradient != 0].min()) < 1e-3
    torch.testing.assert_close(moved[0], -gradient / (gradient.abs() + 1e-8), atol=1e-3, rtol=0)
    torch.testing.assert_close(moved[1], -gradient / (gradient.abs() + 1e-3), atol=1e-3, rtol=0)
