"""What is changed in a model after it was compiled: seen, or refused; never passed over."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from circuitgraph.architectures.watch import ModelWatch
from circuitgraph.compile import compile_model
from circuitgraph.errors import UnsupportedModelError
from tests.circuitgraph.oracle_cases import pair_of_batches

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


def in_place(model) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-2)


CHANGES = [scaling, epsilon, buffer, parameter, module, activation, whole_layer, hook, in_place]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen_or_refused(change: Callable, tiny_llama) -> None:
    model = tiny_llama()
    compiled = compile_model(model)
    before = compiled.logits(BATCH)
    torch.testing.assert_close(before, live(model), atol=1e-5, rtol=1e-5)
    change(model)
    expected = live(model)
    assert not torch.allclose(before, expected, atol=1e-4), "the change has to be one that is heard"
    try:
        ours = compiled.logits(BATCH)
    except UnsupportedModelError:
        assert change is not in_place and change is not parameter
        return
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernels", ["plain", "auto"])
def test_gpt2_is_seen_too(kernels: str, tiny_gpt2) -> None:
    model = tiny_gpt2()
    compiled = compile_model(model, kernels=kernels)
    compiled.logits(BATCH)
    model.transformer.h[0].ln_1.eps = 0.5
    try:
        ours = compiled.logits(BATCH)
    except UnsupportedModelError:
        return
    torch.testing.assert_close(ours, live(model), atol=1e-5, rtol=1e-5)


def test_another_number_format_is_bound_again(tiny_gpt2) -> None:
    model = tiny_gpt2()
    compiled = compile_model(model)
    compiled.logits(BATCH)
    model.bfloat16()
    assert compiled.logits(BATCH).dtype == torch.bfloat16
    torch.testing.assert_close(compiled.logits(BATCH).float(), live(model), atol=0.05, rtol=0.05)


def test_nothing_is_bound_again_without_a_change(tiny_llama) -> None:
    model = tiny_llama()
    compiled = compile_model(model)
    bound = compiled.bound
    compiled.logits(BATCH)
    live(model)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert compiled.bound is bound


def test_changes_in_place_are_counted_where_they_matter() -> None:
    layer = nn.Linear(2, 2)
    watch, counting = ModelWatch(layer), ModelWatch(layer, changes=True)
    with torch.no_grad():
        layer.weight.add_(1)
    assert (watch.sees_a_change(), counting.sees_a_change()) == (False, True)


def test_a_compiled_model_is_told_in_a_few_lines(tiny_llama) -> None:
    compiled = compile_model(tiny_llama(), verify=False)
    graph = compiled.graph
    graph.remove_edge("input", "m0")
    told = repr(compiled.with_graph(graph))
    assert len(told) < 500 and len(told.splitlines()) == 4
    assert "LlamaForCausalLM (llama): 2 layers, 4 heads" in told
    assert "float32 on cpu, kernels=plain" in told and "1 removed" in told
    assert f"{compiled.universe.n_edges} edges" in told and "none" in repr(compiled)
