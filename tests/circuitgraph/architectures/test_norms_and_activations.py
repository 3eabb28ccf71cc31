"""Norms into buffers, and activations in fewer operators, against the model's own modules and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from circuitgraph.architectures import rms_norm
from circuitgraph.architectures.activations import GatedMLP, TanhGELU
from circuitgraph.architectures.rms_norm import RMSNorm
from circuitgraph.forward.engine.norms import norm_back, norm_into

WIDTH = 12


def drawn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weighted(norm: nn.Module) -> nn.Module:
    for seed, weights in enumerate(norm.parameters()):
        weights.data.copy_(drawn(WIDTH, seed=seed))
    return norm.requires_grad_(False)


NORMS = {
    "layer": lambda: weighted(nn.LayerNorm(WIDTH)),
    "llama": lambda: weighted(LlamaRMSNorm(WIDTH)),
    "rms": lambda: RMSNorm(weighted(LlamaRMSNorm(WIDTH))),
    "none": nn.Identity,
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("block_numbers", [2 * WIDTH, 1 << 17])
@pytest.mark.parametrize("in_place", [False, True])
def test_norms(name: str, block_numbers: int, in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rms_norm, "_BLOCK_NUMBERS", block_numbers)
    norm = NORMS[name]()
    x, gradient = drawn(3, 5, WIDTH, seed=8).float(), drawn(3, 5, WIDTH, seed=9).float()
    leaf = x.clone().requires_grad_()
    expected = norm(leaf)
    (pulled,) = torch.autograd.grad(expected, leaf, gradient) if name != "none" else (gradient,)
    out = torch.full_like(x, torch.nan)
    kept = norm_into(norm, x, out)
    torch.testing.assert_close(out, expected.detach(), atol=1e-6, rtol=1e-5)
    back = gradient.clone()
    out = back if in_place else torch.full_like(x, torch.nan)
    norm_back(norm, x, kept, back, out)
    torch.testing.assert_close(out, pulled, atol=1e-5, rtol=1e-5)


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
