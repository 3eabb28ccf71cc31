"""What readers saw, mixed again on the way back, in a buffer that deltas and gradients share."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.forward import stream
from tests.circuitgraph import oracle_definition as oracle
from tests.circuitgraph.oracle_cases import ModelMakers, in_parallel
from tests.circuitgraph.situations import BothWays, Situation


@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "tracr-both-ways"])
@pytest.mark.parametrize(
    ("share", "kept", "ablation"), [(1.0, 0.0, "counterfactual"), (0.3, 0.9, "counterfactual"), (0.3, 0.6, "zero")]
)
def test_gradients_are_those_of_the_definition_and_to_the_bit_those_of_kept_reads(
    case: str, order: str, share: float, kept: float, ablation: str, tiny_gpt2, tiny_llama, monkeypatch
) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    compiled = in_parallel(compiled) if order == "parallel" else compiled
    situation = Situation("mixture", share, kept, ablation, "left", (5, 3), 2, 1)
    both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
    found = []
    for limit in (1 << 30, -1):
        monkeypatch.setattr(stream, "KEPT_BYTES", limit)
        gates = both.gates.requires_grad_()
        found.append(torch.autograd.grad(both.executor(gates).square().sum(), gates)[0])
    assert torch.equal(*found)
    gates = both.gates.requires_grad_()
    (truth,) = torch.autograd.grad(both.definition(gates).square().sum(), gates)
    truth = truth.masked_fill((gates == 0) | (gates == 1), 0.0)
    assert (found[1] - truth).abs().max() <= 1e-9 * truth.abs().max().clamp(min=1)
    assert truth.abs().max() > 0
