"""RelP and GIM against untouched-by-us Hugging Face models whose modules are patched by the published descriptions.

Factors on gradients are written as sums of a part with a gradient and a part without, so that autograd does the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.backward_rules import GIM, RELP, STANDARD, mlp_by_rule
from circuitgraph.forward.full_run import full_run
from pruning.execution.probe import Probe
from pruning.methods.eap import EAP
from tests.oracles.attribution import minus, products, run_with_hooks
from tests.oracles.hooks import landmarks
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 3])
softmax = torch.nn.functional.softmax


def factored(x: Tensor, factor: float) -> Tensor:
    return factor * x + ((1 - factor) * x).detach()


def patch(module: nn.Module, change: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]) -> None:
    module.forward = change(module.forward)  # type: ignore[method-assign]


def freeze(norm: nn.Module) -> None:
    def forward(x: Tensor) -> Tensor:
        is_layer = isinstance(norm, nn.LayerNorm)
        x = x - x.mean(-1, keepdim=True) if is_layer else x
        epsilon = norm.eps if is_layer else norm.variance_epsilon
        x = x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt().detach() * norm.weight
        return x + norm.bias if is_layer else x

    norm.forward = forward  # type: ignore[method-assign]


def by_description(model: nn.Module, n_layers: int, rule: str) -> nn.Module:
    """A copy of a model that goes back by a rule."""
    model = copy.deepcopy(model)
    marks = landmarks(model)
    norms = [norm for layer in range(n_layers) for norm in marks.norms(layer)] + [marks.last]
    for norm in norms:
        freeze(norm)
    for layer in range(n_layers):
        mlp = marks.mlp(layer)
        gated = hasattr(mlp, "gate_proj")
        if rule == "relp":
            activation = mlp.act_fn if gated else mlp.act
            patch(activation, lambda own: lambda x: x * (own(x) / x).detach())
        if gated:
            for linear in (mlp.gate_proj, mlp.up_proj):
                patch(linear, lambda own: lambda x: factored(own(x), 0.5))
        if rule == "gim":
            _scale_attention(marks, layer)
    return model


def _scale_attention(marks, layer: int) -> None:
    linears = {port: marks.port(layer, port, 0).linear for port in "qkv"}
    if linears["q"] is linears["k"]:
        width = marks.last.weight.shape[0]
        factors = torch.tensor([0.25] * 2 * width + [0.5] * width, dtype=torch.float64)
        patch(linears["q"], lambda own: lambda x: factored(own(x), factors))
        return
    for port, linear in linears.items():
        patch(linear, lambda own, f=0.5 if port == "v" else 0.25: lambda x: factored(own(x), f))


def softmax_that_goes_back_at_2(x: Tensor, dim: int = -1, **_: object) -> Tensor:
    half = softmax(x / 2, dim=dim)
    return softmax(x, dim=dim).detach() + 2 * (half - half.detach())


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    make = {"gpt2": lambda: tiny_gpt2(n_heads=2), "llama": lambda: tiny_llama(n_heads=4, n_kv_heads=2)}
    return compile_model(make[request.param]().double(), verify=False)


@pytest.mark.parametrize("rule", ["relp", "gim"])
def test_the_rule_by_its_description(compiled: CompiledModel, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    universe = compiled.universe
    found = EAP(backward=rule).score(Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy"))
    standard = EAP().score(Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy"))
    patched = by_description(compiled.model, universe.n_layers, rule)
    if rule == "gim":
        patched.set_attn_implementation("eager")
        monkeypatch.setattr(torch.nn.functional, "softmax", softmax_that_goes_back_at_2)
    expected = np.zeros(universe.n_edges)
    for prompt in range(len(PROMPTS)):
        clean, other = (torch.from_numpy(ids[prompt])[None] for ids in (PROMPTS.clean_ids, PROMPTS.corrupted_ids))
        answer = int(PROMPTS.answer_ids[prompt][0])
        run = run_with_hooks(patched, universe, clean, lambda logits, a=answer: -logits[-1].log_softmax(-1)[a])
        plain = [run_with_hooks(compiled.model, universe, ids).said for ids in (clean, other)]
        expected += products(universe, minus(plain[1], plain[0]), run.gradients) / len(PROMPTS)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)
    assert np.abs(found - standard).max() > 0.05 * scale


def test_the_forward_pass_is_the_same_by_all_rules(compiled: CompiledModel) -> None:
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="cross-entropy")
    batch = probe.batch(np.array([0])).clean
    for rule in (STANDARD, RELP, GIM):
        torch.testing.assert_close(
            full_run(probe.runnable, batch, rule=rule).logits.detach(), compiled.logits(batch), rtol=1e-5, atol=1e-6
        )


def test_an_activation_at_0() -> None:
    """The quotient act(x) / x goes on smoothly where x is 0; GELU's is 1/2 there."""
    mlp = nn.Sequential()
    for name, part in (("fc_in", nn.Identity()), ("act", nn.GELU()), ("fc_out", nn.Identity())):
        mlp.add_module(name, part)
    x = torch.tensor([[0.0, 1.0]], requires_grad=True)
    mlp_by_rule(mlp, x, RELP).sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == pytest.approx([0.5, float(nn.GELU()(torch.ones(())))], abs=1e-4)


def test_an_mlp_of_another_kind_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="backward='relp' has no rule for MLPs of the kind Linear"):
        mlp_by_rule(nn.Linear(2, 2), torch.zeros(1, 2), RELP)


@pytest.mark.parametrize("kind", ["gpt_neox", "phi"])
def test_plain_mlps_are_known_by_the_names_of_their_maps(kind: str) -> None:
    """The rule says what the MLP says, and its gradient is that of the first map times activation over input."""
    from transformers import GPTNeoXConfig, PhiConfig
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP
    from transformers.models.phi.modeling_phi import PhiMLP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = {"hidden_size": 6, "intermediate_size": 5}
        mlp = (
            GPTNeoXMLP(GPTNeoXConfig(**size, num_attention_heads=2))
            if kind == "gpt_neox"
            else PhiMLP(PhiConfig(**size, num_attention_heads=2))
        )
        x = torch.randn(1, 3, 6, requires_grad=True)
    first, second = (mlp.dense_h_to_4h, mlp.dense_4h_to_h) if kind == "gpt_neox" else (mlp.fc1, mlp.fc2)
    said = mlp_by_rule(mlp, x, RELP)
    torch.testing.assert_close(said, mlp(x))
    inner = first(x)
    activation = mlp.act if kind == "gpt_neox" else mlp.activation_fn
    factor = (activation(inner) / inner).detach()
    (expected,) = torch.autograd.grad(second(inner * factor).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(said.sum(), x)[0], expected)
