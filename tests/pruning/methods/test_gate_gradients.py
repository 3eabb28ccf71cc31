"""Gate gradients against autograd through the definition, one prompt and one reader at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.execution.batch_run import BatchRunner
from pruning.execution.objectives import objective_named
from pruning.frozen.runs import FrozenRuns
from pruning.methods.gate_gradients import GatePath, gate_gradients, gate_importance
from tests.oracles import definition as oracle
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

# One length and one batch, so that every batch holds the whole data set.
PROMPTS = random_prompts(lengths=[4, 4, 4], n_asked=(1, 2))


def definition(compiled: CompiledModel, ablation: str, gates: Tensor, prompts: Sequence[int] = (0, 1, 2)) -> Tensor:
    """The gradient of the mean KL over some prompts in the gates."""
    plain, universe = oracle.plain_model(compiled.model), compiled.universe
    clean, corrupted = ([torch.from_numpy(i) for i in ids] for ids in (PROMPTS.clean_ids, PROMPTS.corrupted_ids))
    gates = gates.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for number in prompts:
        ids = clean[number]
        if ablation == "counterfactual":
            ablated = oracle.plain_run(plain, universe, corrupted[number])[1]
        elif ablation == "zero":
            ablated = dict.fromkeys(universe.writers, torch.zeros((), dtype=torch.float64))
        else:
            ablated = oracle.mean_said(plain, universe, clean, per_position=False)
        asked = PROMPTS.predict_positions[number]
        circuit = oracle.run(plain, universe, gates, ids, ablated)[0][asked].log_softmax(-1)
        teacher = oracle.plain_run(plain, universe, ids)[0][asked].log_softmax(-1)
        total = total + (teacher.exp() * (teacher - circuit)).sum(-1).mean() / len(prompts)
    return torch.autograd.grad(total, gates)[0]


def kl_runner(compiled: CompiledModel, frozen: FrozenRuns) -> BatchRunner:
    """Takes batches forward and backward towards the full model."""
    return BatchRunner(compiled, frozen, objective_named("kl"), micro_batch=8)


def spy_on_gates(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Keep the gates of every masked pass."""
    seen: list[Tensor] = []
    masked = CompiledModel.masked

    def spy(self, gates, *arguments, **options):
        seen.append(gates.detach().clone())
        return masked(self, gates, *arguments, **options)

    monkeypatch.setattr(CompiledModel, "masked", spy)
    return seen


@pytest.mark.parametrize(
    ("family", "ablation"),
    [("gpt2", "counterfactual"), ("llama", "counterfactual"), ("llama", "zero"), ("llama", "mean")],
)
def test_gradients_by_the_definition(
    tiny_gpt2, tiny_llama, monkeypatch: pytest.MonkeyPatch, family: str, ablation: str
) -> None:
    compiled = compile_model({"gpt2": tiny_gpt2, "llama": tiny_llama}[family](), verify=False)
    frozen = FrozenRuns(compiled, PROMPTS, ablation=ablation)
    levels, seen = (0.3, 0.8), spy_on_gates(monkeypatch)
    state = GlobalRandomState()
    found = gate_gradients(kl_runner(compiled, frozen), GatePath(levels=levels, batches=1))
    state.assert_untouched()
    for gates, level in zip(seen, levels, strict=True):
        if ablation == "counterfactual":
            assert bool((gates == level).all())
        else:  # around the level, and never out of [0, 1]
            assert gates.mean().item() == pytest.approx(level, abs=0.05) and gates.std() > 0.05
            assert gates.min() >= 0 and gates.max() <= 1
    gradients = [definition(compiled, ablation, gates) for gates in seen]
    expected = (gradients[0] + gradients[1]) / 2
    # float32 against float64, on gradients of this size.
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=5e-4)


def test_cutting_the_edge_with_the_most_negative_gradient_hurts(tiny_gpt2) -> None:
    """The sign: negative where keeping an edge brings the circuit closer."""
    compiled = compile_model(tiny_gpt2(), verify=False)
    frozen = FrozenRuns(compiled, PROMPTS, ablation="counterfactual")
    gradients = gate_gradients(kl_runner(compiled, frozen), GatePath(levels=(0.95,), batches=1))
    batch = frozen.batch(frozen.by_length[4])
    teacher = batch.teacher.log_softmax(-1)

    def kl(gates: Tensor) -> float:
        ran = compiled.masked(gates, batch.pairs.clean, batch.values).logits.log_softmax(-1)
        return float((teacher.exp() * (teacher - ran)).sum(-1).mean())

    level = torch.full((compiled.universe.n_edges,), 0.95)
    worst = int(gradients.argmin())
    less = level.clone()
    less[worst] -= 0.1
    assert kl(less) > kl(level)


def test_the_seed_decides_which_batches(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(), verify=False)
    frozen = FrozenRuns(compiled, random_prompts(lengths=[4] * 6), ablation="counterfactual")

    path = GatePath(levels=(0.5,), batches=1, batch_size=2)
    for find in (gate_gradients, gate_importance):
        first, again, other = (find(kl_runner(compiled, frozen), path, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_importance_is_the_size_of_a_batchs_gradient_averaged(tiny_llama) -> None:
    """By the definition: one prompt a batch, every level counting alike."""
    compiled = compile_model(tiny_llama(), verify=False)
    frozen = FrozenRuns(compiled, PROMPTS, ablation="counterfactual")
    levels = (0.3, 0.8)
    found = gate_importance(kl_runner(compiled, frozen), GatePath(levels=levels, batches=3, batch_size=1))
    expected = torch.zeros(compiled.universe.n_edges, dtype=torch.float64)
    for level in levels:
        gates = torch.full((compiled.universe.n_edges,), level)
        # One pass over the three prompts, in whatever order.
        apart = [definition(compiled, "counterfactual", gates, [prompt]) for prompt in range(3)]
        size = torch.stack(apart).abs().mean(0)
        expected += size / size.mean() / 2
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=2e-3)
    assert found.mean().item() == pytest.approx(1, abs=1e-5)


def test_what_helps_one_prompt_and_harms_another_matters(tiny_gpt2) -> None:
    """Gradients of opposite sign cancel in their mean and not in their size."""
    compiled = compile_model(tiny_gpt2(), verify=False)
    frozen = FrozenRuns(compiled, PROMPTS, ablation="counterfactual")
    path = GatePath(levels=(0.8,), batches=3, batch_size=1)
    runner = kl_runner(compiled, frozen)
    mean, importance = gate_gradients(runner, path).abs(), gate_importance(runner, path)
    shares = (mean / mean.mean()) / importance
    apart = [definition(compiled, "counterfactual", torch.full_like(mean, 0.8), [prompt]) for prompt in range(3)]
    signs = torch.stack(apart).sign().sum(0).abs()
    # Where all three agree nothing cancels, and the share is the largest there is.
    assert shares[signs == 3].min() > shares[signs == 1].median()


def test_no_gradient_anywhere_is_no_importance(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(), verify=False)
    frozen = FrozenRuns(compiled, PROMPTS, ablation="counterfactual")
    runner = BatchRunner(compiled, frozen, lambda logits, *_: logits.sum() * 0, micro_batch=8)
    assert not gate_importance(runner, GatePath(levels=(0.5,), batches=1)).any()
