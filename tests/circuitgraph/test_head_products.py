"""Products a head: against a loop over einsum, and what is kept for the backward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.forward.head_products import multiply_heads, multiply_into

CHOICES = {"all": [0, 1, 2, 3, 4], "neighbours": [1, 2, 3], "apart": [0, 2, 3], "one": [3], "repeated": [1, 1, 4]}


def drawn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("heads", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_gradients(heads: list[int], transposed: bool) -> None:
    matrix = drawn(20, 6, seed=0).T if transposed else drawn(6, 20, seed=0)
    weights = matrix.unflatten(1, (5, 4)).permute(1, 0, 2)
    x, direction = drawn(len(heads), 7, 6, seed=1).requires_grad_(), drawn(len(heads), 7, 4, seed=2)
    found = multiply_heads(x, weights, np.array(heads))
    expected = torch.stack([torch.einsum("ci,io->co", x[row], weights[head]) for row, head in enumerate(heads)])
    torch.testing.assert_close(found, expected)
    pair = [torch.autograd.grad((out * direction).sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*pair)
    out = torch.empty(len(heads), 7, 4, dtype=torch.float64)
    multiply_into(out, x.detach(), weights, np.array(heads))
    torch.testing.assert_close(out, expected.detach())


@pytest.mark.parametrize("heads", CHOICES.values(), ids=CHOICES)
def test_no_weights_are_copied_for_the_way_back(heads: list[int]) -> None:
    """Only the model's own weights and what was multiplied are kept."""
    weights = drawn(6, 20, seed=0).unflatten(1, (5, 4)).permute(1, 0, 2)
    x = drawn(len(heads), 7, 6, seed=1).requires_grad_()
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        multiply_heads(x, weights, np.array(heads))
    assert weights.untyped_storage().data_ptr() in kept
    assert kept <= {weights.untyped_storage().data_ptr(), x.untyped_storage().data_ptr()}
