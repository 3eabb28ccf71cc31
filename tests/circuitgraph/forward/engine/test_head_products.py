"""Products a head: against a loop over einsum, and what is kept for the backward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.architectures.norm import Norm
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.engine.cuda.engine import CudaEngine
from circuitgraph.forward.engine.engine import Engine
from circuitgraph.forward.engine.plain import PlainEngine
from circuitgraph.forward.plan.plan import BlockPlan, StreamPlan
from circuitgraph.forward.stream.passing import HeadGroup, begin, read_projected
from circuitgraph.forward.stream.stream import Stream
from circuitgraph.forward.stream.tape import Tape
from circuitgraph.forward.stream.workspace import Workspace

ENGINES: list[Engine] = [PlainEngine(), CudaEngine()]
CHOICES = {"all": [0, 1, 2, 3, 4], "neighbours": [1, 2, 3], "apart": [0, 2, 3], "one": [3], "repeated": [1, 1, 4]}


def drawn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read_by(heads: list[int], weights: Tensor, gates: Tensor, ablated: Tensor, delta: Tensor) -> Tensor:
    """What readers of one writer say, each through a gate of its own: `(ablated + gate · delta) @ weights[head]`."""
    n = len(heads)
    block = BlockPlan(
        readers=np.arange(n), rows=slice(0, n), n_slots=1, writers=np.arange(0), slots=slice(1, 1), differentiable=True
    )
    plan = StreamPlan(blocks=(block,), embeddings=np.arange(1), vectors=((),), edges=np.arange(n)[:, None], n_slots=1)
    tape = Tape(gates, gates.detach().numpy(), np.ones(n, dtype=bool), Workspace())
    stream = Stream("only", plan, tape, len(delta), delta, engine_for(delta.device, delta.dtype))
    stream.deltas[0] = delta
    stream.add(slice(0, 1))
    group = HeadGroup(kind=0, rows=slice(0, n), readers=np.arange(n), weights=weights, heads=np.array(heads), bias=None)
    said, _ = read_projected(begin(tape), stream, block, lambda: ablated, Norm.none(), [group])
    return said[0]


@pytest.mark.parametrize("heads", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_gradients(heads: list[int], transposed: bool) -> None:
    matrix = drawn(20, 6, seed=0).T if transposed else drawn(6, 20, seed=0)
    weights = matrix.unflatten(1, (5, 4)).permute(1, 0, 2)
    ablated, delta, direction = drawn(7, 6, seed=1), drawn(7, 6, seed=3), drawn(len(heads), 7, 4, seed=2)
    gates = torch.linspace(0.2, 0.7, len(heads), dtype=torch.float64).requires_grad_()
    found = read_by(heads, weights, gates, ablated, delta)
    x = ablated + gates[:, None, None] * delta
    expected = torch.stack([torch.einsum("ci,io->co", x[row], weights[head]) for row, head in enumerate(heads)])
    torch.testing.assert_close(found, expected)
    pair = [torch.autograd.grad((out * direction).sum(), gates)[0] for out in (found, expected)]
    torch.testing.assert_close(*pair)
    out = torch.empty(len(heads), 7, 4, dtype=torch.float64)
    for engine in ENGINES:
        engine.project(out.fill_(torch.nan), x.detach(), weights, np.array(heads))
        torch.testing.assert_close(out, expected.detach())


@pytest.mark.parametrize("heads", CHOICES.values(), ids=CHOICES)
def test_no_weights_are_copied_for_the_way_back(heads: list[int]) -> None:
    """Only the model's own weights and what was multiplied are kept."""
    weights = drawn(6, 20, seed=0).unflatten(1, (5, 4)).permute(1, 0, 2)
    gates = torch.full((len(heads),), 0.5, dtype=torch.float64).requires_grad_()
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        said = read_by(heads, weights, gates, drawn(7, 6, seed=1), drawn(7, 6, seed=3))
    kept.update(group.weights.untyped_storage().data_ptr() for group in said.grad_fn.groups)  # type: ignore[union-attr]
    assert weights.untyped_storage().data_ptr() in kept
    assert kept <= {weights.untyped_storage().data_ptr()}
