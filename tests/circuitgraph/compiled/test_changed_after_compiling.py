"""What is changed in a model after it was compiled.

Weights, buffers and modules that fit the model's config are bound again and give plain Hugging Face's numbers; what
`compile_model` would refuse is refused by name; nothing is passed over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from circuitgraph.compiled import binding
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.parity import parity_differences
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.engine.mlps import frozen_linear
from tests.oracles.cases import pair_of_batches

BATCH = pair_of_batches(lengths=[6, 6], side="none", n_asked=6, n_tokens=29, seed=1)[0]


def live(model: nn.Module) -> Tensor:
    """Plain Hugging Face."""
    with torch.no_grad():
        logits = model(input_ids=BATCH.input_ids).logits
    return logits.flatten(0, 1)[BATCH.predict_index].float()


def scaling(model) -> None:
    model.model.layers[1].self_attn.scaling *= 3


def epsilon(model) -> None:
    model.model.norm.variance_epsilon = 0.5


def buffer(model) -> None:
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq * 2


def parameter(model) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(weight.detach() * -2)


def module(model) -> None:
    old = model.model.layers[0].self_attn.v_proj
    model.model.layers[0].self_attn.v_proj = nn.Linear(old.in_features, old.out_features, bias=False)


def activation(model) -> None:
    model.model.layers[0].mlp.act_fn = nn.ReLU()


def whole_layer(model) -> None:
    del model.model.layers[1]


def hook(model) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, said: 0 * said)


def own_forward(model) -> None:
    model.model.layers[0].mlp.forward = lambda x: 0 * x


def adapter(model) -> None:
    attention = model.model.layers[0].self_attn
    attention.q_proj = nn.Sequential(attention.q_proj, nn.Linear(16, 16))


def parametrise(model) -> None:
    parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.parametrizations.weight.original0.mul_(3)


def patched_class(model) -> None:
    model.model.norm.__class__ = type("LlamaRMSNorm", (type(model.model.norm),), {"forward": lambda self, x: x})


def epsilon_and_config(model) -> None:
    epsilon(model)
    for layer in model.model.layers:
        layer.input_layernorm.variance_epsilon = layer.post_attention_layernorm.variance_epsilon = 0.5
    model.config.rms_norm_eps = 0.5


def in_place(model) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-2)


BOUND_AGAIN = [buffer, parameter, module, in_place]
REFUSED: dict[Callable, tuple[str, ...]] = {
    scaling: ("model.layers.1.self_attn: scaling is 1.5, its config makes it 0.5",),
    epsilon: ("model.norm: variance_epsilon is 0.5",),
    activation: ("model.layers.0.mlp.act_fn", "ReLU"),
    whole_layer: ("model.layers lacks its module 1",),
    hook: ("model.layers.0.mlp has a forward hook", "handle.remove()"),
    own_forward: ("model.layers.0.mlp has a method of its own, forward",),
    adapter: ("model.layers.0.self_attn.q_proj", "Sequential"),
    parametrise: ("model.layers.0.mlp.up_proj is parametrised (weight)",),
    patched_class: ("model.norm is of the class", "LlamaRMSNorm"),
    epsilon_and_config: ("its config was changed after it was compiled: rms_norm_eps was 1e-06 and is 0.5",),
}


def changed(change: Callable, tiny_llama):
    """A model compiled and run, then changed so that it is heard; and what plain Hugging Face makes of it."""
    model = tiny_llama()
    compiled = compile_model(model)
    before = compiled.logits(BATCH)
    torch.testing.assert_close(before, live(model), atol=1e-5, rtol=1e-5)
    with torch.random.fork_rng(devices=[]):
        change(model)
    expected = live(model)
    assert not torch.allclose(before, expected, atol=1e-4), "the change has to be one that is heard"
    return compiled, expected


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("change", BOUND_AGAIN, ids=lambda change: change.__name__)
def test_what_fits_the_config_is_bound_again(
    change: Callable, by_onednn: bool, tiny_llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "onednn_pays", lambda: by_onednn)
    monkeypatch.setattr(frozen_linear, "LEAST_NUMBERS", 1)
    compiled, expected = changed(change, tiny_llama)
    torch.testing.assert_close(compiled.logits(BATCH), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_could_not_be_compiled_is_refused(change: Callable, tiny_llama) -> None:
    compiled, _ = changed(change, tiny_llama)
    for _ in range(2):  # and stays so
        with pytest.raises(UnsupportedModelError) as caught:
            compiled.logits(BATCH)
        for words in (*REFUSED[change], "changed after it was compiled"):
            assert words in str(caught.value)
    with pytest.raises(UnsupportedModelError):
        _ = compiled.bound_as_given


def test_a_hook_of_every_module_is_refused_until_it_is_gone(tiny_llama) -> None:
    model = tiny_llama()
    compiled = compile_model(model)
    before = compiled.logits(BATCH)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(UnsupportedModelError, match="every module of this process has a forward hook"):
            compiled.logits(BATCH)
    finally:
        handle.remove()
    assert torch.equal(compiled.logits(BATCH), before)


def test_a_class_patched_afterwards_is_refused(tiny_llama, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    compiled = compile_model(model)
    monkeypatch.setattr(type(model.model.norm), "forward", lambda self, x: x)
    with pytest.raises(UnsupportedModelError, match="forward method of LlamaRMSNorm"):
        compiled.logits(BATCH)


def test_gpt2_is_seen_too(tiny_gpt2) -> None:
    model = tiny_gpt2()
    compiled = compile_model(model)
    compiled.logits(BATCH)
    model.transformer.h[0].ln_1.eps = 0.5
    with pytest.raises(UnsupportedModelError, match=r"transformer\.h\.0\.ln_1: eps is 0\.5"):
        compiled.logits(BATCH)


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_weights_that_are_offsets_from_one_are_seen_too(kind: str) -> None:
    sizes = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes, **heads)).eval()
        compiled = compile_model(model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
    assert max(parity_differences(compiled).values()) < 1e-4


def test_another_number_format_is_bound_again(tiny_gpt2) -> None:
    model = tiny_gpt2()
    compiled = compile_model(model)
    compiled.logits(BATCH)
    model.bfloat16()
    assert compiled.logits(BATCH).dtype == torch.bfloat16
    torch.testing.assert_close(compiled.logits(BATCH).float(), live(model), atol=0.05, rtol=0.05)


def test_a_copy_stands_on_weights_of_its_own(tiny_llama) -> None:
    compiled = compile_model(tiny_llama())
    before = compiled.logits(BATCH)
    twin = copy.deepcopy(compiled)
    in_place(compiled.model)
    assert torch.equal(twin.logits(BATCH), before)
    assert not torch.allclose(compiled.logits(BATCH), before, atol=1e-4)
    assert twin.gate_map is compiled.gate_map and twin.bound is not compiled.bound
    with pytest.raises(UnsupportedModelError, match="epsilon is 0.5"):
        epsilon(twin.model)
        twin.logits(BATCH)
    compiled.logits(BATCH)


def test_nothing_is_bound_again_without_a_change(tiny_llama) -> None:
    model = tiny_llama()
    compiled = compile_model(model)
    bound = compiled.bound
    compiled.logits(BATCH)
    live(model.train())
    model.eval().zero_grad()
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert compiled.bound is bound


def test_a_compiled_model_is_told_in_a_few_lines(tiny_llama) -> None:
    compiled = compile_model(tiny_llama(), verify=False)
    graph = compiled.graph
    graph.remove_edge("input", "m0")
    told = repr(compiled.with_graph(graph))
    assert len(told) < 500 and len(told.splitlines()) == 4
    assert "LlamaForCausalLM (llama): 2 layers, 4 heads" in told
    assert "float32 on cpu\n" in told and "1 removed" in told
    assert f"{compiled.universe.n_edges} edges" in told and "none" in repr(compiled)
