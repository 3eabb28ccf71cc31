"""MLP products by oneDNN: those of torch both ways, and followed when a weight changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitgraph.compiled import binding
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.engine.mlps import frozen_linear, onednn
from circuitgraph.forward.engine.mlps.frozen_linear import FrozenLinear, use_onednn
from circuitgraph.forward.engine.mlps.onednn import onednn_pays, onednn_works
from pruning.frozen import keys
from tests.circuitgraph.forward.situations import BothWays, Situation
from tests.oracles import definition as oracle

pytestmark = pytest.mark.skipif(not onednn_works(), reason="this build of torch has no products by oneDNN")

MIXED = Situation("mixture", 0.4, 0.5, "counterfactual", "left", (5, 3), 2, 3)


@pytest.fixture
def onednn_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it pays, even for the tiny matrices of the tests' models."""
    monkeypatch.setattr(binding, "onednn_pays", lambda: True)
    monkeypatch.setattr(frozen_linear, "LEAST_NUMBERS", 1)


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> nn.Module:
    return tiny_gpt2() if request.param == "gpt2" else tiny_llama(n_kv_heads=2)


def maps(compiled: CompiledModel) -> list[FrozenLinear]:
    return [part for block in compiled.bound.blocks for part in block.mlp.modules() if isinstance(part, FrozenLinear)]


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_and_its_gradient(kind: type[nn.Module], bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(70, 90, bias=bias) if kind is nn.Linear else Conv1D(90, 70)
    with torch.no_grad():
        for weight in linear.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    x = torch.randn(19, 5, 70, generator=generator).transpose(0, 1).requires_grad_()  # strides of no plain tensor
    upstream = torch.randn(5, 19, 90, generator=generator)
    weight = linear.weight.double() if kind is nn.Linear else linear.weight.double().T
    expected = x.double() @ weight.T + (linear.bias.double() if linear.bias is not None else 0)

    found = FrozenLinear(linear)(x)
    (gradient,) = torch.autograd.grad(found, x, upstream)

    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.double(), upstream.double() @ weight, rtol=1e-5, atol=1e-4)


def test_no_rows_are_no_error() -> None:
    x = torch.zeros(0, 70, requires_grad=True)
    found = FrozenLinear(nn.Linear(70, 90))(x)
    assert found.shape == (0, 90)
    found.sum().backward()
    assert x.grad is not None and x.grad.shape == (0, 70)


@pytest.mark.usefixtures("onednn_is_taken")
def test_a_masked_pass_equals_the_definition(model: nn.Module) -> None:
    compiled = compile_model(model)
    assert len(maps(compiled)) == compiled.shape.n_layers * compiled.shape.mlp_matrices
    both = BothWays(compiled, oracle.plain_model(compiled.model), MIXED)

    def run(gates: Tensor) -> Tensor:
        return compiled.masked(gates, both.batches[0], both.values()).logits

    logits, gradient = both.gradients(run, both.gates.float())
    expected, expected_gradient = both.gradients(both.definition, both.gates)
    undecided = (both.gates > 0) & (both.gates < 1)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient[undecided].double(), expected_gradient[undecided], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("onednn_is_taken")
def test_the_given_model_keeps_its_modules(model: nn.Module) -> None:
    before = {name: type(part) for name, part in model.named_modules()}
    compiled = compile_model(model)
    assert maps(compiled)
    assert {name: type(part) for name, part in model.named_modules()} == before
    given = [type(part) for block in compiled.bound_as_given.blocks for part in block.mlp.modules()]
    assert FrozenLinear not in given and maps(compiled), "who copies modules gets the model's own"


@pytest.mark.usefixtures("onednn_is_taken")
@pytest.mark.parametrize("noticed", [True, False])
def test_weights_changed_in_place_are_followed(model: nn.Module, noticed: bool) -> None:
    compiled = compile_model(model)
    both = BothWays(compiled, oracle.plain_model(compiled.model), MIXED)
    before = compiled.logits(both.batches[0])
    for name, weight in model.named_parameters():
        if "mlp" in name:
            (weight.detach() if noticed else weight.data).mul_(1.5)
    after = compiled.logits(both.batches[0])
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(after, compile_model(model).logits(both.batches[0]), rtol=1e-4, atol=1e-5)


def test_small_matrices_are_left_alone(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "onednn_pays", lambda: True)
    assert not maps(compile_model(model))


@pytest.mark.usefixtures("onednn_is_taken")
def test_other_formats_are_left_alone(model: nn.Module) -> None:
    assert not maps(compile_model(model.double()))


@pytest.mark.usefixtures("onednn_is_taken")
def test_a_slice_with_strides_of_its_own_is_left_alone() -> None:
    whole, part = nn.Linear(6, 4), nn.Linear(3, 4)
    part.weight = nn.Parameter(whole.weight[:, :3])
    both = nn.Sequential(whole, part)
    use_onednn(both)
    assert isinstance(both[0], FrozenLinear) and both[1] is part


@pytest.mark.parametrize("capability", ["AVX512", "AVX512_VNNI", "AVX2", "DEFAULT"])
@pytest.mark.parametrize("maker", ["AuthenticAMD", "GenuineIntel", None])
def test_where_onednn_pays(capability: str, maker: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    if maker is not None:
        told.write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
    monkeypatch.setattr(onednn, "_CPU_INFO", told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    onednn_pays.cache_clear()
    try:
        assert onednn_pays() == (capability.startswith("AVX512") and maker != "GenuineIntel")
    finally:
        onednn_pays.cache_clear()


def test_frozen_runs_by_onednn_are_kept_apart(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compile_model(model)
    found = []
    for pays in (False, False, True):
        monkeypatch.setattr(keys, "onednn_pays", lambda pays=pays: pays)
        found.append(keys.model_key(compiled))
    assert found[0] == found[1] != found[2]
