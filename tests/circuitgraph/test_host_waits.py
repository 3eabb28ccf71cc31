"""How often the host waits for the device: once a masked pass, forward and backward.

On a CPU nothing waits, so what would on CUDA is counted: operators that read a value from the device
(`aten::_local_scalar_dense` is behind `item`, `bool`, `float` and `int` of a tensor) or whose result's size
depends on values, and tensors turned into Python or numpy objects.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from circuitgraph.compile import CompiledModel
from circuitgraph.forward import masked
from tests.circuitgraph.oracle_cases import ModelMakers, pair_of_batches

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten.unique_consecutive.default, aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor,
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Notes every operator that would make the host wait, and every tensor that leaves torch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        self.to_host = 0
        inside = False
        original = masked.to_host

        def to_host(*tensors: Tensor | None) -> Any:
            nonlocal inside
            self.to_host += 1
            inside = True
            try:
                return original(*tensors)
            finally:
                inside = False

        monkeypatch.setattr(masked, "to_host", to_host)
        for name in ("numpy", "tolist", "cpu", "__array__"):
            kept = getattr(Tensor, name)

            def leave(tensor: Tensor, *args: Any, kept: Any = kept, name: str = name, **kwargs: Any) -> Any:
                if not inside:
                    self.found.append(name)
                return kept(tensor, *args, **kwargs)

            monkeypatch.setattr(Tensor, name, leave)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) else ()
        by_flags = any(index is not None and index.dtype == torch.bool for index in indices)
        if func in READS or by_flags:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def waits(compiled: CompiledModel, lengths: list[int], *, ablation: str, monkeypatch: pytest.MonkeyPatch) -> Waits:
    """Take one masked pass forward and backward; gates are 0, 1 and between."""
    clean, corrupted = pair_of_batches(lengths=lengths, side="left", n_asked=2, n_tokens=29, seed=2)
    values = compiled.run_with_values(corrupted)[1]
    if ablation != "counterfactual":
        values = compiled.ablation_values(ablation, [clean])
    drawn = torch.rand(compiled.universe.n_edges, generator=torch.Generator().manual_seed(0))
    gates = (1.6 * drawn - 0.3).clamp(0, 1).requires_grad_()
    wanted = (gates > 0) & (gates < 1)
    found = Waits(monkeypatch)
    with found:
        compiled.masked(gates, clean, values, ablation=ablation, wanted=wanted).logits.sum().backward()
    assert gates.grad is not None and gates.grad.any()
    return found


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
@pytest.mark.parametrize("lengths", [[6, 6], [6, 3]], ids=["equal", "padded"])
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_one_wait_a_pass(
    case: str, lengths: list[int], ablation: str, tiny_gpt2, tiny_llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
    found = waits(compiled, lengths, ablation=ablation, monkeypatch=monkeypatch)
    assert (found.to_host, found.found) == (1, [])


def test_waits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count itself: each of these would wait on CUDA."""
    flags = torch.tensor([True, False])
    with Waits(monkeypatch) as found:
        assert bool(flags.any())
        flags.sum().item()
        flags[flags]
        flags.nonzero()
        flags.numpy()
        flags.tolist()
    assert len(found.found) == 6
