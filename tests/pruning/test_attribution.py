"""Gate gradients against autograd through the definition, one prompt and one reader at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from circuitgraph.compile import CompiledModel, compile_model
from pruning.attribution import gate_gradients
from pruning.frozen_runs import FrozenRuns
from tests.circuitgraph import oracle_definition as oracle
from tests.pruning.small_prompts import GlobalRandomState, random_prompts

# One length and one batch, so that every batch holds the whole data set.
PROMPTS = random_prompts(lengths=[4, 4, 4], n_asked=(1, 2))


def definition(compiled: CompiledModel, ablation: str, gates: Tensor) -> Tensor:
    """The gradient of the mean KL in the gates."""
    plain, universe = oracle.plain_model(compiled.model), compiled.universe
    clean, corrupted = ([torch.from_numpy(i) for i in ids] for ids in (PROMPTS.clean_ids, PROMPTS.corrupted_ids))
    gates = gates.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for number, ids in enumerate(clean):
        if ablation == "counterfactual":
            ablated = oracle.plain_run(plain, universe, corrupted[number])[1]
        elif ablation == "zero":
            ablated = dict.fromkeys(universe.writers, torch.zeros((), dtype=torch.float64))
        else:
            ablated = oracle.mean_said(plain, universe, clean, per_position=False)
        asked = PROMPTS.predict_positions[number]
        circuit = oracle.run(plain, universe, gates, ids, ablated)[0][asked].log_softmax(-1)
        teacher = oracle.plain_run(plain, universe, ids)[0][asked].log_softmax(-1)
        total = total + (teacher.exp() * (teacher - circuit)).sum(-1).mean() / len(clean)
    return torch.autograd.grad(total, gates)[0]


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
    found = gate_gradients(compiled, frozen, objective="kl", levels=levels, batches_per_level=1, batch_size=8, seed=0)
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
    gradients = gate_gradients(compiled, frozen, objective="kl", levels=(0.95,), batches_per_level=1)
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

    def find(seed: int) -> Tensor:
        return gate_gradients(
            compiled, frozen, objective="kl", levels=(0.5,), batches_per_level=1, batch_size=2, seed=seed
        )

    assert torch.equal(find(0), find(0))
    assert not torch.equal(find(0), find(1))
