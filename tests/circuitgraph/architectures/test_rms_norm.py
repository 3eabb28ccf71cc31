"""RMS norms in few passes against the model's own, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import circuitgraph.architectures.rms_norm as module
from circuitgraph.architectures.rms_norm import RMSNorm
from circuitgraph.compiled.compile import compile_model
from circuitgraph.extract.parts import own_copy

WIDTH = 24


@pytest.fixture
def theirs() -> LlamaRMSNorm:
    norm = LlamaRMSNorm(WIDTH, eps=1e-3).requires_grad_(False)
    norm.weight.copy_(torch.linspace(-1.5, 2, WIDTH))
    return norm


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1), dtype=dtype) * 3 + 0.5


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4), (0,), (2, 0)])
@pytest.mark.parametrize("block_numbers", [1, 5 * WIDTH, 1 << 17])
def test_it_is_the_models_own(theirs, shape, block_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", block_numbers)
    x, y = (rows(*shape).requires_grad_() for _ in range(2))
    gradient = torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(2))
    found, expected = RMSNorm(theirs, epsilon=theirs.variance_epsilon)(x), theirs(y)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)
    found.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(x.grad, y.grad, atol=2e-6, rtol=2e-6)


def test_rows_need_not_lie_in_one_piece(theirs) -> None:
    x = rows(4, 6)
    back = torch.ones(6, 4, WIDTH).transpose(0, 1)
    found, expected = x.transpose(0, 1).requires_grad_(), x.transpose(0, 1).clone().requires_grad_()
    RMSNorm(theirs, epsilon=theirs.variance_epsilon)(found).transpose(0, 1).backward(back)
    theirs(expected).transpose(0, 1).backward(back)
    torch.testing.assert_close(found.grad, expected.grad, atol=2e-6, rtol=2e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    weight = torch.linspace(-1.5, 2, WIDTH, dtype=torch.float64)
    x = rows(3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module._RMSNorm.apply(x, weight, 1e-3), (x,), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats_are_the_models_to_the_bit(theirs, dtype: torch.dtype) -> None:
    norm = theirs.to(dtype)
    x = rows(5, dtype=dtype)
    assert torch.equal(RMSNorm(norm, epsilon=norm.variance_epsilon)(x), norm(x))


def test_it_keeps_no_copy_of_the_rows(theirs) -> None:
    x = rows(50).requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        RMSNorm(theirs, epsilon=theirs.variance_epsilon)(x)
    ours = {x.data_ptr(), theirs.weight.data_ptr()}
    assert sum(size for where, size in kept.items() if where not in ours) == 50 * 4


def test_llama_takes_it_and_an_extracted_circuit_the_models_own(tiny_llama) -> None:
    bound = compile_model(tiny_llama(), verify=False).bound
    norms = [bound.final_norm, *(norm for block in bound.blocks for norm in (block.attention_norm, block.mlp_norm))]
    for norm in norms:
        assert isinstance(norm.module, RMSNorm) and norm.kind == "rms" and norm.weight is norm.module.own.weight
        copied = own_copy(norm)
        assert isinstance(copied, LlamaRMSNorm) and copied.weight.requires_grad
        assert torch.equal(copied.weight, norm.weight) and copied.weight.data_ptr() != norm.weight.data_ptr()
