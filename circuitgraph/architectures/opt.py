"""OPT: learned positions, layer norms before each part, an MLP without a gate, biases everywhere.

- Position p is row p + 2 of its table; the model's own embedding sees to that.
- A narrower embedding is mapped to the stream and back (`word_embed_proj_dim`).
- OPT-350m, whose norms stand behind the residual stream (`do_layer_norm_before` false), is not understood.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from circuitgraph.architectures.around import TwoMaps
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import activation, flag, not_a_multiple, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape
from circuitgraph.architectures.llama_like import block_with, separate
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads, n_kv_heads=config.num_attention_heads,
        d_model=config.hidden_size, d_head=config.hidden_size // config.num_attention_heads, d_mlp=config.ffn_dim,
        d_vocab=config.vocab_size, n_positions=config.max_position_embeddings, learned_positions=True, mlp_saved=1,
    )  # fmt: skip


def _block(block: Any) -> BoundBlock:
    own = block.self_attn
    norms = block.self_attn_layer_norm, block.final_layer_norm
    return block_with(
        norms,
        separate(own),
        own.out_proj,
        Attention(scale=own.scaling),
        TwoMaps(block.fc1, block.activation_fn, block.fc2),
    )


def _bind(model: Any) -> BoundModel:
    body = model.model.decoder
    inwards = body.project_in or nn.Identity()
    return BoundModel(
        embed=lambda ids, positions: (
            inwards(body.embed_tokens(ids)),
            body.embed_positions(None, position_ids=positions),
        ),
        blocks=tuple(_block(block) for block in body.layers),
        final_norm=Norm.none() if body.final_layer_norm is None else Norm.layer(body.final_layer_norm),
        unembed=model.lm_head if body.project_out is None else nn.Sequential(body.project_out, model.lm_head),
    )


_SIZES = "vocab_size hidden_size num_hidden_layers ffn_dim max_position_embeddings num_attention_heads".split()
_FIELDS = {
    **dict.fromkeys(_SIZES, whole()), "word_embed_proj_dim": whole(or_null=True), "activation_function": activation(),
    "enable_bias": flag(), "layer_norm_elementwise_affine": flag(), "_remove_final_layer_norm": flag(),
}  # fmt: skip

FAMILY = Family(
    name="opt",
    model_classes=frozenset({"OPTForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS),
    fields=_FIELDS,
    contradictions=lambda values: not_a_multiple(values, "hidden_size", "num_attention_heads"),
    required={"do_layer_norm_before": True},
    harmless=frozenset({"dropout", "attention_dropout", "activation_dropout", "layerdrop", "init_std"}),
)
