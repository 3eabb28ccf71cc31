"""GPT-OSS: Llama with attention sinks, windows in every second layer, biases on all projections, and experts.

- A block of experts with its router is one MLP writer, see `mixtral`.
- The rotary embedding gives cosines and sines of one half of a head's numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures.around import Routed
from circuitgraph.architectures.config_fields import number, types_of_layers, whole
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, contradictions, fields_without, window_of
from circuitgraph.architectures.rotary import DoubledRotary, prompt_by_prompt

_FIELDS = fields_without(
    "hidden_act", "mlp_bias", sliding_window=whole(or_null=True), layer_types=types_of_layers(),
    num_local_experts=whole(), num_experts_per_tok=whole(), swiglu_alpha=number(), swiglu_limit=number(1e-30),
)  # fmt: skip


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    window = window_of(config, layer)
    return block_of(block, mlp=Routed(block.mlp), window=window, sinks=block.self_attn.sinks)


FAMILY = replace(
    llama.FAMILY,
    name="gpt_oss",
    model_classes=frozenset({"GptOssForCausalLM"}),
    bind=bind_with(_block, rotaries=lambda model: (DoubledRotary(prompt_by_prompt(model.model.rotary_emb)),)),
    understood=frozenset(_FIELDS) | ROPE | {"num_experts"},
    fields=_FIELDS,
    contradictions=contradictions,
    required={},
    harmless=llama.FAMILY.harmless
    | {"output_router_logits", "router_aux_loss_coef", "hidden_act", "initial_context_length", "experts_per_token"},
)
