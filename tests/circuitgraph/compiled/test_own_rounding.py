"""A float64 model whose norms and softmax compute in float32 compiles; one that is wrong does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import circuitgraph.compiled.compile
from circuitgraph.architectures import family_of
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.own_rounding import own_rounding
from circuitgraph.compiled.parity import TOLERANCE, parity_differences
from circuitgraph.errors import ParityError


def plain_llama(attention: str, seed: int = 0) -> LlamaForCausalLM:
    """A Llama as transformers makes it, its norms with their cast to float32, in float64."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8) if parameter.ndim == 2 else parameter.normal_(1, 0.5)
    return model.double()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_float64_llama_compiles(attention: str) -> None:
    compiled = compile_model(plain_llama(attention))
    largest = max(parity_differences(compiled).values())
    # eager attention takes its softmax in float32, so the model itself is that far from float64.
    assert largest < 1e-5 if attention == "eager" else largest < TOLERANCE[torch.float64]


def _planted(monkeypatch: pytest.MonkeyPatch, relative: float) -> None:
    """The attention scores of every layer off by a share."""
    family = family_of("llama")

    def bind(model: torch.nn.Module):
        bound = family.bind(model)
        blocks = tuple(
            replace(block, attention=replace(block.attention, scale=block.attention.scale * (1 + relative)))
            for block in bound.blocks
        )
        return replace(bound, blocks=blocks)

    monkeypatch.setattr(circuitgraph.compiled.compile, "family_of", lambda _: replace(family, bind=bind))


def test_what_is_wrong_beyond_the_models_own_rounding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    _planted(monkeypatch, 1e-3)
    with pytest.raises(ParityError, match="differs from the model by"):
        compile_model(plain_llama("eager"))


def test_where_nothing_is_narrowed_a_millionth_is_caught(tiny_llama, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_model(tiny_llama(dtype=torch.float64))
    _planted(monkeypatch, 1e-6)
    with pytest.raises(ParityError, match="explains 1e-09"):
        compile_model(tiny_llama(dtype=torch.float64))


def test_the_rounding_of_a_known_function() -> None:
    """By hand: y = float32(x) · 3 moves by 3 |x| ε at most, and less than that by a random share below 1."""
    x = torch.linspace(1, 2, 1001, dtype=torch.float64)
    found = own_rounding(lambda: x.float().double() * 3, seed=0)
    most = 3 * 2 * torch.finfo(torch.float32).eps / float((3 * x).std())
    assert 0.8 * most < found <= 1.01 * most
    assert own_rounding(lambda: x * 3, seed=0) == 0
    assert found == own_rounding(lambda: x.float().double() * 3, seed=0)
