"""Falcon, in its three kinds of blocks.

- Sequential with two layer norms; parallel with one for both parts (7B); parallel with one each (40B, 180B).
- Queries, keys and values are one matrix: those of a head side by side, one key and value for all heads (7B), or a
  group's queries and then its key and value.
- Positions are rotary. ALiBi (the RW models) is not understood: transformers rounds it to bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import activation, flag, not_a_multiple, number, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape, Projection
from circuitgraph.architectures.llama_like import ROPE, block_with, contradictions, interleaved
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rotary import prompt_by_prompt


def _n_kv_heads(config: Any) -> int:
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


def _shape(config: Any) -> ModelShape:
    parallel = config.new_decoder_architecture or config.parallel_attn
    return ModelShape(
        n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads, n_kv_heads=_n_kv_heads(config),
        d_model=config.hidden_size, d_head=config.hidden_size // config.num_attention_heads,
        d_mlp=config.ffn_hidden_size or 4 * config.hidden_size, d_vocab=config.vocab_size,
        n_positions=config.max_position_embeddings, learned_positions=False,
        block_order="parallel" if parallel else "sequential", mlp_saved=2,
    )  # fmt: skip


def _projections(linear: Any, config: Any) -> list[Projection]:
    n_heads, n_groups = config.num_attention_heads, _n_kv_heads(config)
    if n_groups == n_heads and not config.new_decoder_architecture:
        return interleaved(linear.weight, linear.bias, n_heads)
    group = n_heads // n_groups
    rows = linear.weight.unflatten(0, (n_groups, group + 2, -1)).transpose(2, 3)
    biases = None if linear.bias is None else linear.bias.unflatten(0, (n_groups, group + 2, -1))
    found = []
    for part in (slice(0, group), slice(group, group + 1), slice(group + 1, group + 2)):
        found.append(Projection(rows[:, part], None if biases is None else biases[:, part]))
    return found


def _block(block: Any, config: Any) -> BoundBlock:
    own = block.self_attention
    two = hasattr(block, "ln_attn")
    attention_norm = block.ln_attn if two else block.input_layernorm
    mlp_norm = block.ln_mlp if two else getattr(block, "post_attention_layernorm", attention_norm)
    projections = _projections(own.query_key_value, config)
    norms = attention_norm, mlp_norm
    return block_with(norms, projections, own.dense, Attention(scale=own.inv_norm_factor), with_short_gelu(block.mlp))


def _bind(model: Any) -> BoundModel:
    body = model.transformer
    return BoundModel(
        embed=lambda ids, positions: (body.word_embeddings(ids),),
        blocks=tuple(_block(block, model.config) for block in body.h),
        final_norm=Norm.layer(body.ln_f),
        unembed=model.lm_head,
        rotaries=(prompt_by_prompt(body.rotary_emb),),
    )


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    yield from contradictions(values)
    if values.get("new_decoder_architecture"):
        yield from not_a_multiple(values, "num_attention_heads", "num_kv_heads")


_SIZES = "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings".split()
_FLAGS = "new_decoder_architecture multi_query parallel_attn bias".split()
_FIELDS = {
    **dict.fromkeys(_SIZES, whole()), **dict.fromkeys(_FLAGS, flag()), "num_kv_heads": whole(or_null=True),
    "num_ln_in_parallel_attn": whole(or_null=True), "ffn_hidden_size": whole(or_null=True),
    "layer_norm_epsilon": number(), "activation": activation(),
}  # fmt: skip

FAMILY = Family(
    name="falcon",
    model_classes=frozenset({"FalconForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
    contradictions=_contradictions,
    required={"alibi": False},
    harmless=frozenset({"hidden_dropout", "attention_dropout"}),
)
