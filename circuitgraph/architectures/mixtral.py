"""Mixtral, OLMoE and Qwen 3's mixtures: a block of experts with its router is one MLP writer.

- The router sees what the MLP's reader sees, mixed by its gates; which experts run may jump with a gate, and gradients
  do not know of that.
- Mixtral: Mistral's attention.
- OLMoE: a norm over the queries and the keys of all heads together; queries, keys and values clamped to `clip_qkv`.
- Qwen 3: its norms on queries and keys; the layers that `mlp_only_layers` names, or `decoder_sparse_step` leaves out,
  have a plain gated MLP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.around import Routed
from circuitgraph.architectures.config_fields import Field, flag, number, whole
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, contradictions, fields_without, shape_of
from circuitgraph.architectures.rms_norm import head_norm

_TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})
_EXPERTS = {"num_experts_per_tok": whole()}

_FIELDS = fields_without(
    "attention_bias", "mlp_bias", sliding_window=whole(or_null=True), num_local_experts=whole(), **_EXPERTS
)
FAMILY = replace(
    llama.FAMILY,
    name="mixtral",
    model_classes=frozenset({"MixtralForCausalLM"}),
    bind=bind_with(lambda block, config, layer: block_of(block, window=config.sliding_window, mlp=Routed(block.mlp))),
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
    contradictions=contradictions,
    required={},
    harmless=llama.FAMILY.harmless | _TRAINING,
)


def _block_olmoe(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.self_attn
    return block_of(
        block,
        mlp=Routed(block.mlp),
        clip=config.clip_qkv,
        query_norm=head_norm(own.q_norm, n_heads=config.num_attention_heads),
        key_norm=head_norm(own.k_norm, n_heads=config.num_key_value_heads),
    )


_FIELDS = fields_without(
    "head_dim", "mlp_bias", clip_qkv=number(1e-30, or_null=True), num_experts=whole(), norm_topk_prob=flag(), **_EXPERTS
)
OLMOE = replace(
    FAMILY,
    name="olmoe",
    model_classes=frozenset({"OlmoeForCausalLM"}),
    shape=lambda config: shape_of(config, head_scale="shared", normed_together=True),
    bind=bind_with(_block_olmoe),
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
)


def _block_qwen3(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.self_attn
    return block_of(
        block,
        mlp=Routed(block.mlp) if hasattr(block.mlp, "experts") else GatedMLP(block.mlp),
        query_norm=head_norm(own.q_norm),
        key_norm=head_norm(own.k_norm),
    )


_LAYERS = Field("a list of layers", lambda value: isinstance(value, list | tuple), or_null=True)
_FIELDS = fields_without(
    "mlp_bias", num_experts=whole(), moe_intermediate_size=whole(), norm_topk_prob=flag(), decoder_sparse_step=whole(),
    mlp_only_layers=_LAYERS, **_EXPERTS,
)  # fmt: skip
QWEN3_MOE = replace(
    FAMILY,
    name="qwen3_moe",
    model_classes=frozenset({"Qwen3MoeForCausalLM"}),
    bind=bind_with(_block_qwen3),
    understood=frozenset(_FIELDS) | ROPE | {"num_local_experts", "max_window_layers"},
    fields=_FIELDS,
    required={"use_sliding_window": False, "sliding_window": None},
)
