"""Activations in fewer operators, against the model's own modules and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaMLP

from circuitgraph.architectures.activations import GatedMLP, TanhGELU

WIDTH = 12


def drawn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gelu_is_the_one_written_out() -> None:
    x, own = 3 * drawn(50, seed=1), NewGELUActivation()
    torch.testing.assert_close(TanhGELU(own)(x), own(x), atol=1e-14, rtol=1e-12)
    narrow = x.bfloat16()
    assert torch.equal(TanhGELU(own)(narrow), own(narrow))


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_a_gated_mlp_is_the_models_own(activation: str) -> None:
    config = LlamaConfig(hidden_size=WIDTH, intermediate_size=20, hidden_act=activation, num_attention_heads=2)
    own = LlamaMLP(config).double().requires_grad_(False)
    leaves = [drawn(7, WIDTH, seed=2).requires_grad_() for _ in range(2)]
    said = [mlp(leaf) for mlp, leaf in zip((GatedMLP(own), own), leaves, strict=True)]
    torch.testing.assert_close(*said, atol=1e-14, rtol=1e-12)
    gradient = drawn(7, WIDTH, seed=3)
    pulled = [torch.autograd.grad(one, leaf, gradient)[0] for one, leaf in zip(said, leaves, strict=True)]
    torch.testing.assert_close(*pulled, atol=1e-14, rtol=1e-12)
