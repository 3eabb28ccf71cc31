"""BLOOM: no positions but ALiBi, a layer norm on the embedding, sequential blocks, biases everywhere.

- What the embedding writes is what comes out of its norm.
- Queries, keys and values are one matrix, those of a head side by side.
"""

from __future__ import annotations

from typing import Any

from circuitgraph.architectures.around import TwoMaps
from circuitgraph.architectures.attention import Attention, alibi_slopes
from circuitgraph.architectures.config_fields import not_a_multiple, number, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape
from circuitgraph.architectures.llama_like import block_with, interleaved
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.n_layer, n_heads=config.n_head, n_kv_heads=config.n_head, d_model=config.hidden_size,
        d_head=config.hidden_size // config.n_head, d_mlp=4 * config.hidden_size, d_vocab=config.vocab_size,
        n_positions=None, learned_positions=False, mlp_saved=2,
    )  # fmt: skip


def _block(block: Any) -> BoundBlock:
    own, mlp = block.self_attention, block.mlp
    projections = interleaved(own.query_key_value.weight, own.query_key_value.bias, own.num_heads)
    slopes = alibi_slopes(own.num_heads).to(own.dense.weight.device)
    norms = block.input_layernorm, block.post_attention_layernorm
    return block_with(
        norms,
        projections,
        own.dense,
        Attention(scale=own.inv_norm_factor, slopes=slopes),
        TwoMaps(mlp.dense_h_to_4h, mlp.gelu_impl, mlp.dense_4h_to_h),
    )


def _bind(model: Any) -> BoundModel:
    body = model.transformer
    return BoundModel(
        embed=lambda ids, positions: (body.word_embeddings_layernorm(body.word_embeddings(ids)),),
        blocks=tuple(_block(block) for block in body.h),
        final_norm=Norm.layer(body.ln_f),
        unembed=model.lm_head,
    )


_FIELDS = {
    **dict.fromkeys(("vocab_size", "hidden_size", "n_layer", "n_head"), whole()), "layer_norm_epsilon": number(),
}  # fmt: skip

FAMILY = Family(
    name="bloom",
    model_classes=frozenset({"BloomForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS),
    fields=_FIELDS,
    contradictions=lambda values: not_a_multiple(values, "hidden_size", "n_head"),
    required={"apply_residual_connection_post_layernorm": False, "slow_but_exact": False},
    harmless=frozenset({"hidden_dropout", "attention_dropout", "pretraining_tp", "seq_length", "offset_alibi"}),
)
