"""Masked passes on a device: the same numbers as on the host, and the host never waits for what it knows already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.transfer import to_device, to_host
from tests.oracles.cases import CASES, ModelMakers, pair_of_batches
from tests.pretend_device import DEVICE, Elsewhere, PretendDevice


class Both:
    """A model on the host and on the pretended device, with a batch and gates for them."""

    def __init__(
        self, makers: ModelMakers, case: str, lengths: list[int], ablation: str, device: PretendDevice
    ) -> None:
        family, sizes, choices = CASES[case]
        self.device, self.ablation = device, ablation
        self.host = makers.compile(case, dtype=torch.float64)
        sent = device.send_model(makers.make(family, dtype=torch.float64, **sizes))
        self.there = compile_model(sent, verify=False, **choices)
        self.batches = pair_of_batches(lengths=lengths, side="left", n_asked=2, n_tokens=29, seed=2)
        drawn = torch.rand(self.host.universe.n_edges, generator=torch.Generator().manual_seed(0))
        self.gates = (1.6 * drawn - 0.3).clamp(0, 1).double()
        self.wanted = (self.gates > 0) & (self.gates < 1)

    def values(self, compiled, clean: TokenBatch, corrupted: TokenBatch):
        if self.ablation != "counterfactual":
            return compiled.ablation_values(self.ablation, [clean])
        return compiled.run_with_values(corrupted)[1]

    def on_host(self) -> tuple[Tensor, Tensor]:
        """Logits, and gradient of their sum."""
        gates = self.gates.clone().requires_grad_()
        clean, corrupted = self.batches
        values = self.values(self.host, clean, corrupted)
        ran = self.host.masked(gates, clean, values, wanted=self.wanted)
        return ran.logits.detach(), torch.autograd.grad(ran.logits.sum(), gates)[0]

    def on_device(self, *, known: bool) -> tuple[Tensor, Tensor]:
        """The same, where what decides the plan is known on the host or was made on the device."""
        clean, corrupted = (batch.to(DEVICE) for batch in self.batches)
        values = self.values(self.there, clean, corrupted)
        gates, wanted = self.gates.clone(), self.wanted
        if known and values.input_ids is not None:
            assert corrupted.on_host is not None
            host = corrupted.on_host
            values = replace(values, input_ids=host.input_ids, attention_mask=host.attention_mask)
        if not known:
            gates, wanted = self.device.send(gates), self.device.send(wanted)
            clean = replace(clean)  # which does not take what is known of it along
        gates.requires_grad_()
        self.device.waits.clear()
        ran = self.there.masked(gates, clean, values, wanted=wanted)
        gradient = torch.autograd.grad(ran.logits.sum(), ran.gates)[0]
        assert isinstance(ran.logits, Elsewhere) and isinstance(gradient, Elsewhere)
        return ran.logits.held, gradient.held


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("lengths", [[6, 6], [6, 3]], ids=["equal", "padded"])
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_a_pass_waits_for_nothing_that_is_known(case: str, lengths: list[int], ablation: str, tiny_gpt2, tiny_llama):
    with PretendDevice() as device:
        both = Both(ModelMakers(tiny_gpt2, tiny_llama), case, lengths, ablation, device)
        expected = both.on_host()
        for known, waits in ((True, 0), (False, 1)):
            found = both.on_device(known=known)
            assert len(device.waits) == waits, device.waits
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_a_gradient_comes_back_to_gates_on_the_host(tiny_gpt2, tiny_llama) -> None:
    with PretendDevice() as device:
        both = Both(ModelMakers(tiny_gpt2, tiny_llama), "gpt2", [6, 6], "counterfactual", device)
        gates = both.gates.clone().requires_grad_()
        clean, corrupted = (batch.to(DEVICE) for batch in both.batches)
        both.there.masked(gates, clean, both.values(both.there, clean, corrupted)).logits.sum().backward()
        assert type(gates.grad) is Tensor
        torch.testing.assert_close(gates.grad, both.on_host()[1], atol=1e-9, rtol=1e-9)


def test_a_changed_batch_forgets_what_lies_on_the_host() -> None:
    batch, other = pair_of_batches(lengths=[4], side="left", n_asked=1, n_tokens=29, seed=2)
    assert batch.on_host is None
    with PretendDevice():
        there = batch.to(DEVICE)
        assert there.on_host is batch and there.to(DEVICE).on_host is batch
        assert replace(there, input_ids=other.to(DEVICE).input_ids).on_host is None


def test_what_is_on_the_host_is_not_waited_for() -> None:
    with PretendDevice() as device:
        there = to_device(np.arange(3), DEVICE)
        assert to_host(torch.ones(2), None)[1] is None and device.waits == []
        brought = to_host(there, torch.ones(2), there + 1)
        assert [part.tolist() for part in brought if part is not None] == [[0, 1, 2], [1, 1], [1, 2, 3]]
        assert len(device.waits) == 1


def test_the_pretended_device_sees_waits() -> None:
    """Each of these waits on CUDA."""
    with PretendDevice() as device:
        flags = torch.tensor([True, False]).to(DEVICE)
        assert bool(flags.any())
        flags.sum().item()
        flags[flags]
        flags.nonzero()
        flags.cpu()
        flags.tolist()
        torch.tensor([1], device=DEVICE)
        with pytest.raises(TypeError, match="cpu"):
            flags.numpy()
    assert len(device.waits) == 8


def test_the_pretended_device_refuses_to_mix() -> None:
    with PretendDevice() as device:
        there = device.send(torch.arange(3.0))
        assert (there + torch.tensor(2.0)).tolist() == [2, 3, 4]  # a single number may lie on the host
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(3).add_(there)
        assert torch.ones(3).copy_(there).tolist() == [0, 1, 2]
