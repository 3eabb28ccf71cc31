"""What readers saw, mixed again on the way back, in a buffer that deltas, gradients and folded gradients share."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.forward.stream import stream
from circuitgraph.forward.stream.buffer import StreamLayout, overlapping
from tests.circuitgraph.forward.situations import BothWays, Situation, without_kernels
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers, in_parallel


def _in_one_go(starts: list[int], seen: list[int], n_rows: int, n_slots: int) -> StreamLayout:
    """The smallest buffer without a fold."""
    stops = [*starts[1:], n_rows]
    sizes = [n + n_rows - start for n, start, stop in zip(seen, starts, stops, strict=True) if stop > start]
    return StreamLayout(size=max([n_slots, n_rows, *sizes]), n_rows=n_rows)


def _folded_before_second_layer(starts: list[int], seen: list[int], n_rows: int, n_slots: int) -> StreamLayout:
    """A large enough buffer with a fold, whether it saves anything or not; at the third block, where there is one."""
    fold_row, n_folded = starts[2], seen[2]
    if not fold_row:
        return _in_one_go(starts, seen, n_rows, n_slots)
    late = _in_one_go([start - fold_row for start in starts[2:]], seen[2:], n_rows - fold_row, n_slots).size
    early = _in_one_go(starts[:2], seen[:2], fold_row, n_folded).size + n_folded
    return StreamLayout(size=max(late, early), n_rows=n_rows, fold_row=fold_row, n_folded=n_folded)


@pytest.mark.parametrize("by", ["torch", "kernels"])
@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "tracr-both-ways"])
@pytest.mark.parametrize(
    ("share", "kept", "ablation"), [(1.0, 0.0, "counterfactual"), (0.3, 0.9, "counterfactual"), (0.3, 0.6, "zero")]
)
def test_gradients_are_those_of_the_definition_however_the_buffer_is_folded(
    case: str, order: str, by: str, share: float, kept: float, ablation: str, tiny_gpt2, tiny_llama, monkeypatch
) -> None:
    if by == "torch":
        without_kernels(monkeypatch)
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    compiled = in_parallel(compiled) if order == "parallel" else compiled
    situation = Situation("mixture", share, kept, ablation, "left", (5, 3), 2, 1)
    both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
    found, folds = [], []

    def folded(*counts) -> StreamLayout:
        folds.append(_folded_before_second_layer(*counts))
        return folds[-1]

    for layout in (_in_one_go, folded, overlapping):
        monkeypatch.setattr(stream, "overlapping", layout)
        gates = both.gates.requires_grad_()
        found.append(torch.autograd.grad(both.executor(gates).square().sum(), gates)[0])
    assert any(layout.n_folded and layout.fold_row for layout in folds)
    gates = both.gates.requires_grad_()
    (truth,) = torch.autograd.grad(both.definition(gates).square().sum(), gates)
    truth = truth.masked_fill((gates == 0) | (gates == 1), 0.0)
    for gradient in found:
        assert (gradient - truth).abs().max() <= 1e-9 * truth.abs().max().clamp(min=1)
    assert truth.abs().max() > 0
