"""MLP products by oneDNN, direct and packed: those of plain ones both ways, and followed when a weight changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitgraph.compiled import kernels
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.kernels import choose_kernels
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.engine.mlps import frozen_linear
from circuitgraph.forward.engine.mlps.frozen_linear import FrozenLinear, onednn_works, use_onednn
from circuitgraph.forward.engine.mlps.onednn import onednn_pays
from circuitgraph.memory.numbers import packed_bytes
from pruning.frozen.keys import model_key
from tests.circuitgraph.forward.situations import BothWays, Situation
from tests.oracles import definition as oracle

pytestmark = pytest.mark.skipif(not onednn_works(), reason="this build of torch has no products by oneDNN")

MIXED = Situation("mixture", 0.4, 0.5, "counterfactual", "left", (5, 3), 2, 3)


@pytest.fixture
def takes_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take even the tiny matrices of the tests' models."""
    for module in (frozen_linear, kernels):
        monkeypatch.setattr(module, "LEAST_NUMBERS", 1)


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> nn.Module:
    return tiny_gpt2() if request.param == "gpt2" else tiny_llama(n_kv_heads=2)


def maps(compiled: CompiledModel) -> list[FrozenLinear]:
    return [part for block in compiled.bound.blocks for part in block.mlp.modules() if isinstance(part, FrozenLinear)]


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("pack", "cells", "copies"), [(True, 19, 2), (True, 20, 0), (False, 19, 0)])
def test_a_product_and_its_gradient(kind: type[nn.Module], bias: bool, pack: bool, cells: int, copies: int) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(70, 90, bias=bias) if kind is nn.Linear else Conv1D(90, 70)
    with torch.no_grad():
        for weight in linear.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    x = torch.randn(cells, 5, 70, generator=generator).transpose(0, 1).requires_grad_()  # strides of no plain tensor
    upstream = torch.randn(5, cells, 90, generator=generator)
    weight = linear.weight.double() if kind is nn.Linear else linear.weight.double().T
    expected = x.double() @ weight.T + (linear.bias.double() if linear.bias is not None else 0)

    ours = FrozenLinear(linear, pack=pack)
    said = ours(x)
    (gradient,) = torch.autograd.grad(said, x, upstream)

    torch.testing.assert_close(said.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.double(), upstream.double() @ weight, rtol=1e-5, atol=1e-4)
    assert ours.copies == copies, "95 rows are taken packed, 100 are not"


@pytest.mark.parametrize("pack", [False, True])
def test_no_rows_are_no_error(pack: bool) -> None:
    x = torch.zeros(0, 70, requires_grad=True)
    said = FrozenLinear(nn.Linear(70, 90), pack=pack)(x)
    assert said.shape == (0, 90)
    said.sum().backward()
    assert x.grad is not None and x.grad.shape == (0, 70)


@pytest.mark.usefixtures("takes_small")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kernels", ["direct", "packed"])
def test_a_masked_pass_equals_the_definition(model: nn.Module, recompute: bool, kernels: str) -> None:
    compiled = compile_model(model, kernels=kernels)
    assert len(maps(compiled)) == compiled.shape.n_layers * compiled.shape.mlp_matrices
    both = BothWays(compiled, oracle.plain_model(compiled.model), MIXED)

    def run(gates: Tensor) -> Tensor:
        return compiled.masked(gates, both.batches[0], both.values(), recompute=recompute).logits

    logits, gradient = both.gradients(run, both.gates.float())
    expected, expected_gradient = both.gradients(both.definition, both.gates)
    undecided = (both.gates > 0) & (both.gates < 1)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient[undecided].double(), expected_gradient[undecided], rtol=1e-3, atol=1e-4)
    assert {part.copies > 0 for part in maps(compiled)} == {kernels == "packed"}


@pytest.mark.usefixtures("takes_small")
def test_the_given_model_keeps_its_modules(model: nn.Module) -> None:
    before = {name: type(part) for name, part in model.named_modules()}
    assert maps(compile_model(model, kernels="direct"))
    assert {name: type(part) for name, part in model.named_modules()} == before


@pytest.mark.usefixtures("takes_small")
@pytest.mark.parametrize("kernels", ["direct", "packed"])
def test_weights_changed_in_place_are_followed(model: nn.Module, kernels: str) -> None:
    compiled = compile_model(model, kernels=kernels)
    both = BothWays(compiled, oracle.plain_model(compiled.model), MIXED)
    before = compiled.logits(both.batches[0])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "mlp" in name:
                weight.mul_(1.5)
    after = compiled.logits(both.batches[0])
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(after, compiled.with_kernels("plain").logits(both.batches[0]), rtol=1e-4, atol=1e-5)


def test_small_matrices_are_left_alone(model: nn.Module) -> None:
    assert compile_model(model, kernels="auto").kernels == "plain"
    assert not maps(compile_model(model, kernels="packed"))


@pytest.mark.usefixtures("takes_small")
def test_a_slice_with_strides_of_its_own_is_left_alone() -> None:
    whole, part = nn.Linear(6, 4), nn.Linear(3, 4)
    part.weight = nn.Parameter(whole.weight[:, :3])
    both = nn.Sequential(whole, part)
    use_onednn(both, pack=True)
    assert isinstance(both[0], FrozenLinear) and both[1] is part


@pytest.mark.usefixtures("takes_small")
def test_direct_products_follow_what_nobody_can_notice(model: nn.Module) -> None:
    compiled = compile_model(model, kernels="direct")
    both = BothWays(compiled, oracle.plain_model(compiled.model), MIXED)
    before = compiled.logits(both.batches[0])
    for name, weight in model.named_parameters():
        if "mlp" in name:
            weight.data.mul_(1.5)
    after = compiled.logits(both.batches[0])
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(after, compiled.with_kernels("plain").logits(both.batches[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernels", ["direct", "packed"])
def test_what_onednn_cannot_do(model: nn.Module, kernels: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{kernels}' needs float32; the model lies on cpu in float64"):
        compile_model(model.double(), kernels=kernels)
    assert compile_model(model, kernels="auto").kernels == "plain"
    with pytest.raises(UnknownNameError, match="packed"):
        compile_model(model, kernels="pakced")


@pytest.mark.usefixtures("takes_small")
def test_auto_leaves_room(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = compile_model(model).shape
    needed = packed_bytes(shape)
    monkeypatch.setattr(kernels, "onednn_pays", lambda: True)
    for free, expected in ((4 * needed, "packed"), (4 * needed - 4, "direct"), (None, "direct")):
        monkeypatch.setattr(kernels, "available_bytes", lambda device, free=free: free)
        assert choose_kernels("auto", shape, device="cpu", dtype="float32") == expected
    with pytest.raises(ConfigurationError, match="needs a CPU"):
        choose_kernels("packed", shape, device="cuda", dtype="float32")


@pytest.mark.usefixtures("takes_small")
def test_auto_takes_onednn_where_the_processor_has_avx_512(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = compile_model(model).shape
    monkeypatch.setattr(kernels, "available_bytes", lambda device: None)
    expected_by = {"AVX512": "direct", "AVX512_VNNI": "direct", "AVX2": "plain", "DEFAULT": "plain"}
    for capability, expected in expected_by.items():
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        onednn_pays.cache_clear()
        assert choose_kernels("auto", shape, device="cpu", dtype="float32") == expected
    onednn_pays.cache_clear()


def test_frozen_runs_of_packed_weights_are_kept_apart(model: nn.Module) -> None:
    compiled = compile_model(model)
    assert model_key(compiled) == model_key(compiled.with_kernels("plain"))
    assert model_key(compiled) != model_key(compiled.with_kernels("packed"))
