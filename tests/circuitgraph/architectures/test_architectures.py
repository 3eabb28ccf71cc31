"""Families: sizes from a config alone, options that the model's own modules honour, refusals."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig

from circuitgraph.architectures import family_of, supported_model_types
from circuitgraph.architectures.family import frozen_view
from circuitgraph.architectures.universe import universe_of
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.parity import parity_differences
from circuitgraph.errors import UnsupportedModelError

LLAMA_3_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
)
CODELLAMA_13B = LlamaConfig(
    hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=40
)
SMOLLM2_135M = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
)


@pytest.mark.parametrize(
    ("config", "choices", "n_edges"),
    [
        (GPT2Config(), {}, 32_491),
        (GPT2Config(), {"embeddings": "split"}, 32_936),
        (SMOLLM2_135M, {}, 70_651),
        (CODELLAMA_13B, {}, 3_877_661),
        (LLAMA_3_8B, {}, 805_681),
        (LLAMA_3_8B, {"kv_heads": "per_query"}, 1_592_881),
        (MistralConfig(), {}, 805_681),
    ],
    ids=["gpt2", "gpt2-split", "smollm2-135m", "codellama-13b", "llama-3-8b", "llama-3-8b-per-query", "mistral-7b"],
)
def test_edges_that_the_field_counts(config, choices: dict[str, str], n_edges: int) -> None:
    family = family_of(config.model_type)
    assert universe_of(family, family.shape(config), **choices).n_edges == n_edges


def test_shapes_say_what_the_config_says() -> None:
    shape = family_of("llama").shape(LLAMA_3_8B)
    assert (shape.d_model, shape.d_head, shape.d_mlp, shape.n_kv_heads) == (4096, 128, 14336, 8)
    assert not shape.learned_positions
    shape = family_of("gpt2").shape(GPT2Config(n_inner=100))
    assert (shape.d_model, shape.d_head, shape.d_mlp, shape.n_positions) == (768, 64, 100, 1024)
    assert shape.learned_positions


def test_supported_types_can_all_be_looked_up() -> None:
    assert supported_model_types() == sorted(supported_model_types())
    assert {family_of(name).name for name in supported_model_types()} >= {"gpt2", "llama", "mistral", "tracr"}
    with pytest.raises(
        UnsupportedModelError, match="'mamba' is not supported .*queries and keys.*; supported: .*gpt2.*llama"
    ):
        family_of("mamba")


GPT2_OPTIONS = {
    "scale-by-layer": {"scale_attn_by_inverse_layer_idx": True},
    "no-scale": {"scale_attn_weights": False},
    "relu": {"activation_function": "relu"},
    "inner-width": {"n_inner": 20},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "untied": {"tie_word_embeddings": False},
    "eager": {"attn_implementation": "eager"},
}
LLAMA_OPTIONS = {
    "attention-bias": {"attention_bias": True},
    "mlp-bias": {"mlp_bias": True},
    "gelu": {"hidden_act": "gelu"},
    "epsilon": {"rms_norm_eps": 0.1},
    "wide-heads": {"head_dim": 8},
    "untied": {"tie_word_embeddings": False},
    "eager": {"attn_implementation": "eager"},
}


def draw(model: torch.nn.Module) -> None:
    """Weights and biases that all matter; biases are made 0 by Hugging Face, which would hide one left out."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.5 + 0.3 * noise if parameter.ndim == 1 else noise / parameter.shape[-1] ** 0.5)


@pytest.mark.parametrize("option", GPT2_OPTIONS)
def test_options_of_gpt2(option: str) -> None:
    config = GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=13, n_positions=16, **GPT2_OPTIONS[option])
    with torch.random.fork_rng(devices=[]):
        model = GPT2LMHeadModel(config)
    draw(model)
    assert max(parity_differences(compile_model(model)).values()) < 2e-5


@pytest.mark.parametrize("option", LLAMA_OPTIONS)
def test_options_of_llama(option: str) -> None:
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}
    config = LlamaConfig(**sizes, intermediate_size=24, vocab_size=13, **LLAMA_OPTIONS[option])
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    draw(model)
    assert max(parity_differences(compile_model(model)).values()) < 2e-5


def test_defaults_of_both_configs_are_understood() -> None:
    for config in (GPT2Config(), LlamaConfig(), MistralConfig(), LLAMA_3_8B, CODELLAMA_13B, SMOLLM2_135M):
        family_of(config.model_type).check_config(config)


def test_a_frozen_view_shares_weights_and_nothing_else(tiny_llama) -> None:
    model = tiny_llama().train()
    model.model.norm.register_forward_hook(lambda *_: pytest.fail("a user's hook was called"))
    view = frozen_view(model)
    of_both = [module.named_parameters(remove_duplicate=False) for module in (view, model)]
    for (name, weight), (other, mine) in zip(*of_both, strict=True):
        assert name == other and weight.data_ptr() == mine.data_ptr()
        assert mine.requires_grad and not weight.requires_grad
    assert model.training and not any(module.training for module in view.modules())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = view(ids).logits
        model.model.embed_tokens.weight.mul_(2)
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
        assert not torch.equal(view(ids).logits, before)
