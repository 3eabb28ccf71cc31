"""Phi 1, 1.5 and 2.

- Parallel blocks with one layer norm for both parts; an MLP without a gate; biases everywhere, on the logits too.
- A share of each head is turned by its position; layer norms on queries and keys if `qk_layernorm` says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama, stablelm
from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention, HeadNorm
from circuitgraph.architectures.config_fields import flag, number
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_with, fields_without, separate, shape_of
from circuitgraph.architectures.norm import Norm

_FIELDS = fields_without(
    "head_dim", "rms_norm_eps", "attention_bias", "mlp_bias", layer_norm_eps=number(), qk_layernorm=flag()
)


def _head_norm(norm: Any) -> HeadNorm:
    return HeadNorm(kind="layer", weight=norm.weight, bias=norm.bias, epsilon=norm.eps)


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own, norms = block.self_attn, (block.input_layernorm, block.input_layernorm)
    of_heads: dict[str, Any] = {}
    if config.qk_layernorm:
        of_heads = {"query_norm": _head_norm(own.q_layernorm), "key_norm": _head_norm(own.k_layernorm)}
    attention, mlp = Attention(scale=own.scaling, **of_heads), with_short_gelu(block.mlp, name="activation_fn")
    return block_with(norms, separate(own), own.dense, attention, mlp)


FAMILY = replace(
    llama.FAMILY,
    name="phi",
    model_classes=frozenset({"PhiForCausalLM"}),
    shape=lambda config: shape_of(config, block_order="parallel", mlp_matrices=2),
    bind=bind_with(_block, final_norm=lambda model: Norm.layer(model.model.final_layernorm)),
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
    contradictions=stablelm.FAMILY.contradictions,
    required={},
    harmless=llama.FAMILY.harmless | {"resid_pdrop", "embd_pdrop"},
)
