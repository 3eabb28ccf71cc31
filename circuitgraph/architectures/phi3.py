"""Phi 3 and Phi 4 mini: Llama with fused maps.

- Queries, keys and values are one matrix, one after the other; so are the MLP's two first.
- A share of a head's numbers may be turned; a window in every layer, or none; rope of the kind `longrope`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.config_fields import whole
from circuitgraph.architectures.family import BoundBlock

_FIELDS = like.fields_without(
    "head_dim", "attention_bias", "mlp_bias", sliding_window=whole(or_null=True),
    original_max_position_embeddings=whole(),
)  # fmt: skip


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.self_attn
    sizes = [config.num_attention_heads * own.head_dim, *[config.num_key_value_heads * own.head_dim] * 2]
    query, key, value = like.fused(own.qkv_proj.weight, own.qkv_proj.bias, sizes, own.head_dim)
    return like.block_of(block, query=query, key=key, value=value, mlp=block.mlp, window=config.sliding_window)


FAMILY = replace(
    llama.FAMILY,
    name="phi3",
    model_classes=frozenset({"Phi3ForCausalLM"}),
    bind=like.bind_with(_block),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=like.contradictions_partly_turned,
    required={},
    harmless=llama.FAMILY.harmless | {"resid_pdrop", "embd_pdrop"},
)
