"""What looks for circuits, on every family: attribution is the masked pass's gradient, training lowers the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.execution.probe import Probe
from pruning.frozen.runs import FrozenRuns
from pruning.methods.eap import EAP
from pruning.methods.edge_pruning.loop import train
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.train import Trainer
from tests.circuitgraph.architectures.battery.case import VOCAB, Made, exact, made
from tests.circuitgraph.architectures.battery.families import LONG_ONES, QUICK
from tests.oracles.uncast import uncast
from tests.pruning.prompts.small_prompts import random_prompts

pytestmark = pytest.mark.slow

PROMPTS = random_prompts(lengths=[6, 5, 6, 6], n_asked=(1, 2), n_tokens=VOCAB)


@pytest.mark.parametrize("case", LONG_ONES)
@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_attribution_is_the_gradient_of_gates_at_1(case: str, ablation: str) -> None:
    own = exact(case)
    with uncast():
        probe = Probe(compiled=own.compiled, pairs=PROMPTS, objective="cross-entropy", ablation=ablation, batch_size=2)
        total = sum(probe.gradient(prompts, probe.full_gates) for prompts in probe.batches())
        expected = -np.asarray(total) / len(PROMPTS)
        assert np.abs(expected).max() > 1e-3
        found = EAP().score(probe)
    # Float64, in another order; 1e-13 is seen.
    np.testing.assert_allclose(found, expected, rtol=0, atol=own.case.exact * np.abs(expected).max())


def divergence(own: Made, gates: Tensor) -> float:
    """Mean KL(model ‖ circuit) of the half of the edges with the highest α."""
    kept = torch.zeros(own.n_edges)
    kept[gates.topk(own.n_edges // 2).indices] = 1.0
    found = []
    with torch.no_grad():
        for prompt in range(len(PROMPTS)):
            batch = PROMPTS.batch([prompt])
            values = own.compiled.run_with_values(batch.corrupted)[1]
            ours = own.compiled.masked(kept, batch.clean, values).logits.log_softmax(-1)
            theirs = own.compiled.logits(batch.clean).log_softmax(-1)
            found.append(float((theirs.exp() * (theirs - ours)).sum(-1).mean()))
    return float(np.mean(found))


@pytest.mark.parametrize("case", LONG_ONES)
def test_edge_pruning_lowers_the_loss(case: str) -> None:
    """At half of the edges from first to last; ten steps for the quick ones, forty for the others."""
    steps = 10 if case in QUICK else 40
    recipe = Recipe(
        name="test", steps=steps, ramp_steps=1, warmup_steps=1, learning_rate=0.5, target_sparsity=0.5,
        start_sparsity=0.5, control="budget", init_mean=0.0, init_std=0.5, batch_size=4, keep="target",
    )  # fmt: skip
    own = made(case)
    frozen = FrozenRuns(own.compiled, PROMPTS, ablation="counterfactual")
    trainer = Trainer(own.compiled, frozen, recipe, objective="kl", seed=0)
    before = divergence(own, trainer.gates.log_alpha.detach().clone())
    run = train(trainer)
    assert len(run.records) == steps and not run.stopped_by
    after = divergence(own, run.gates.log_alpha.detach())
    assert after < before, (after, before)
