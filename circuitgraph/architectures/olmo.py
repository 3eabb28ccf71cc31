"""OLMo, OLMo 2 and OLMo 3.

- OLMo: Llama with layer norms that have no weights, and queries, keys and values clamped to `clip_qkv`.
- OLMo 2: readers see the raw residual stream; norms stand behind the heads and behind the MLP, and over the queries
  and the keys of all heads together.
- OLMo 3: OLMo 2 with windows in the layers that `layer_types` names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.config_fields import number, types_of_layers, whole
from circuitgraph.architectures.family import BoundBlock, ModelShape
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import head_norm, rms_norm


def _without_weights(module: nn.Module) -> Norm:
    return Norm(module=module, kind="layer", epsilon=1e-5, in_float32=True)


_FIELDS = like.fields_without("head_dim", "rms_norm_eps", "mlp_bias", clip_qkv=number(1e-30, or_null=True))
FAMILY = replace(
    llama.FAMILY,
    name="olmo",
    model_classes=frozenset({"OlmoForCausalLM"}),
    bind=like.bind_with(
        lambda block, config, layer: like.block_of(block, norm=_without_weights, clip=config.clip_qkv),
        norm=_without_weights,
    ),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=like.contradictions,
    required={},
)


def _shape_2(config: Any) -> ModelShape:
    return like.shape_of(config, head_scale="shared", normed_together=True)


def _block_2(block: Any, **attention: Any) -> BoundBlock:
    own = block.self_attn
    return like.block_of(
        block,
        mlp_norm=Norm.none(),
        mlp=nn.Sequential(GatedMLP(block.mlp), rms_norm(block.post_feedforward_layernorm).module),
        heads_norm=rms_norm(block.post_attention_layernorm),
        query_norm=head_norm(own.q_norm, n_heads=own.q_proj.out_features // own.head_dim),
        key_norm=head_norm(own.k_norm, n_heads=own.k_proj.out_features // own.head_dim),
        **attention,
    )


_FIELDS = like.fields_without("head_dim", "mlp_bias")
OLMO2 = replace(
    FAMILY,
    name="olmo2",
    model_classes=frozenset({"Olmo2ForCausalLM"}),
    shape=_shape_2,
    bind=like.bind_with(lambda block, config, layer: _block_2(block)),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    required={"attention_bias": False},
)
_FIELDS = _FIELDS | {"sliding_window": whole(or_null=True), "layer_types": types_of_layers()}
OLMO3 = replace(
    OLMO2,
    name="olmo3",
    model_classes=frozenset({"Olmo3ForCausalLM"}),
    bind=like.bind_with(
        lambda block, config, layer: _block_2(
            block, window=like.window_of(config, layer), rotary=like.rotary_by_type(config, layer)
        ),
        rotaries=like.rotaries_by_type,
    ),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=like.contradictions_by_type,
)
