"""Buffers that are kept between passes: no pass may see or spoil another's."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward import masked
from circuitgraph.forward.stream.tape import Tape
from circuitgraph.forward.stream.workspace import Workspace
from tests.circuitgraph.forward.situations import WAYS, BothWays, Situation, mix_by
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers, in_parallel


@pytest.fixture(scope="module")
def compiled(tiny_gpt2, tiny_llama) -> CompiledModel:
    return ModelMakers(tiny_gpt2, tiny_llama).compile("llama-gqa", dtype=torch.float64)


@pytest.fixture(scope="module")
def situations(compiled: CompiledModel) -> list[BothWays]:
    """Passes of unequal size; in the middle one many gates are 1, so that readers take the complement."""
    plain = oracle.plain_model(compiled.model)
    return [
        BothWays(compiled, plain, Situation("mixture", share, kept, ablation, "left", lengths, 2, seed))
        for seed, (share, kept, ablation, lengths) in enumerate(
            [
                (0.4, 0.5, "counterfactual", (5, 3)),
                (0.2, 0.9, "zero", (6, 4, 2)),
                (0.9, 0.5, "counterfactual", (3, 2)),
            ]
        )
    ]


def loss(both: BothWays, gates: Tensor) -> Tensor:
    return both.executor(gates).square().sum()


def expected(both: BothWays) -> Tensor:
    gates = both.gates.requires_grad_()
    (gradient,) = torch.autograd.grad(both.definition(gates).square().sum(), gates)
    decided = (gates == 0) | (gates == 1)
    return gradient.masked_fill(decided, 0.0)


def assert_close(ours: Tensor, truth: Tensor) -> None:
    assert (ours - truth).abs().max() <= 1e-9 * truth.abs().max().clamp(min=1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_passes_may_wait_for_their_backward(situations: list[BothWays], order: tuple[int, ...]) -> None:
    gates = [both.gates.requires_grad_() for both in situations]
    losses = [loss(both, z) for both, z in zip(situations, gates, strict=True)]
    gradients = {}
    for number in order:
        (gradients[number],) = torch.autograd.grad(losses[number], gates[number])
    # Compared at the end, so that a gradient handed out earlier must have survived the later ones.
    for number, both in enumerate(situations):
        assert_close(gradients[number], expected(both))


def test_gradients_add_up_over_passes(situations: list[BothWays]) -> None:
    first, _, third = situations
    gates = first.gates.requires_grad_()
    (loss(first, gates) + loss(third, gates)).backward()
    assert gates.grad is not None
    once_more = gates.detach().requires_grad_()
    alone = [torch.autograd.grad(loss(both, once_more), once_more)[0] for both in (first, third)]
    assert_close(gates.grad, alone[0] + alone[1])


def test_an_evaluation_between_forward_and_backward(situations: list[BothWays]) -> None:
    first, second, _ = situations
    gates = first.gates.requires_grad_()
    waiting = loss(first, gates)
    with torch.no_grad():
        between = second.executor(second.gates)
    (gradient,) = torch.autograd.grad(waiting, gates)
    assert_close(gradient, expected(first))
    torch.testing.assert_close(between, second.definition(second.gates), atol=1e-9, rtol=1e-9)


def test_logits_outlive_later_passes(situations: list[BothWays]) -> None:
    first, second, _ = situations
    logits = first.executor(first.gates)
    copy = logits.clone()
    second.executor(second.gates)
    first.executor(second.gates)
    assert torch.equal(logits, copy)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "tracr-both-ways"])
def test_no_pass_reads_what_it_did_not_write(
    case: str, order: str, way: str, tiny_gpt2, tiny_llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh memory mostly holds small numbers, and 0 times those is 0; here it holds NaN."""
    take = Workspace.take
    monkeypatch.setattr(Workspace, "take", lambda *arguments: take(*arguments).fill_(torch.nan))
    mix_by(way, monkeypatch)
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    compiled = in_parallel(compiled) if order == "parallel" else compiled
    for seed, (share, kept) in enumerate([(1.0, 0.0), (0.3, 0.9), (0.1, 0.1)]):
        situation = Situation("mixture", share, kept, "counterfactual", "left", (5, 3), 2, seed)
        both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
        gates = both.gates.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(both, gates), gates)
        assert_close(gradient, expected(both))


def test_an_abandoned_pass_gives_its_buffers_back(compiled: CompiledModel, situations: list[BothWays]) -> None:
    first = situations[0]
    waiting = loss(first, first.gates.requires_grad_())
    del waiting
    gc.collect()
    gates = first.gates.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(first, gates), gates)
    assert_close(gradient, expected(first))


def test_a_pass_is_freed_with_its_logits(situations: list[BothWays], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cyclic collector's help, which may come too late for a GPU's memory."""
    kept: list[weakref.ref[Tape]] = []
    begin = masked.begin
    monkeypatch.setattr(masked, "begin", lambda tape: (kept.append(weakref.ref(tape)), begin(tape))[1])
    gc.disable()
    try:
        for backward in (True, False):
            logits = situations[0].executor(situations[0].gates.requires_grad_())
            if backward:
                logits.sum().backward()
            del logits
        assert [tape() for tape in kept] == [None, None]
    finally:
        gc.enable()


def test_a_second_backward_is_right_or_refused(situations: list[BothWays]) -> None:
    """Buffers may be gone by then; wrong numbers may not come out."""
    both = situations[1]
    gates = both.gates.requires_grad_()
    waiting = loss(both, gates)
    first = torch.autograd.grad(waiting, gates, retain_graph=True)[0].clone()
    assert_close(first, expected(both))
    try:
        (again,) = torch.autograd.grad(waiting, gates, retain_graph=True)
    except RuntimeError as error:
        assert "masked" in str(error)
    else:
        assert_close(again, first)


def test_a_second_backward_after_another_pass_is_right_or_refused(situations: list[BothWays]) -> None:
    both, other = situations[1], situations[0]
    gates = both.gates.requires_grad_()
    waiting = loss(both, gates)
    first = torch.autograd.grad(waiting, gates, retain_graph=True)[0].clone()
    other_gates = other.gates.requires_grad_()
    loss(other, other_gates).backward()
    try:
        (again,) = torch.autograd.grad(waiting, gates)
    except RuntimeError as error:
        assert "masked" in str(error)
    else:
        assert_close(again, first)


def test_the_same_pass_twice_gives_the_same_bits(situations: list[BothWays]) -> None:
    for both in situations:
        results = []
        for _ in range(2):
            gates = both.gates.requires_grad_()
            logits = both.executor(gates)
            results.append((logits.detach(), torch.autograd.grad(logits.square().sum(), gates)[0]))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
