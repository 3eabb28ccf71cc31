"""The architecture file of Tracr models: sizes, bound weights, and a config without unknown fields."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from circuitgraph.architectures import family_of
from circuitgraph.tracr.loading import load_tracr
from circuitgraph.tracr.model import TracrConfig
from circuitgraph.tracr.programs import program_names


def test_shape_counts_output_columns_and_not_input_tokens() -> None:
    shape = family_of("tracr").shape(load_tracr("tracr:reverse").model.config)
    assert (shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head, shape.d_model) == (4, 1, 1, 12, 41)
    assert (shape.d_mlp, shape.d_vocab, shape.n_positions) == (30, 3, 6)
    assert shape.learned_positions and not shape.causal


def test_every_config_field_is_either_understood_or_harmless() -> None:
    family = family_of("tracr")
    known = family.understood | family.harmless | {"model_type"}
    assert {field.name for field in fields(TracrConfig)} == known


@pytest.mark.parametrize("name", program_names())
def test_bound_weights_are_the_models_own_and_compose_to_its_answer(name: str) -> None:
    """Run the bound parts as a plain residual stream, with no mask, and compare with the model."""
    loaded = load_tracr(name, dtype=torch.float64)
    model = loaded.model
    bound = family_of("tracr").bind(model)
    assert bound.blocks[0].query.matrix.data_ptr() == model.blocks[0].attn.q.weight.data_ptr()  # pyright: ignore
    ids = torch.tensor(
        [loaded.tokenizer.encode_tokens([*loaded.tokenizer.program_tokens, *loaded.tokenizer.program_tokens][:3])]
    )
    tokens, positions = bound.embed(ids, torch.arange(4)[None])
    unseen = torch.ones(4, 4, dtype=torch.bool).triu(1) & model.config.causal
    x = tokens + positions
    for block in bound.blocks:
        seen = block.attention_norm(x)
        q, k, v = (
            (seen @ p.matrix + p.bias).unflatten(-1, (p.n_heads, -1)).transpose(1, 2)
            for p in (block.query, block.key, block.value)
        )
        shares = (q @ k.mT * block.attention.scale).masked_fill(unseen, -torch.inf).softmax(-1)
        x = x + (shares @ v).transpose(1, 2).flatten(-2) @ block.output + block.output_bias
        x = x + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(bound.unembed(bound.final_norm(x)), model(ids).logits, atol=1e-12, rtol=0)
