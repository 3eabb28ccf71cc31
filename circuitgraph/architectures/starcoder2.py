"""StarCoder 2: Llama's attention with layer norms, an MLP without a gate, and biases everywhere.

- A window in every layer, or none.
"""

from __future__ import annotations

from dataclasses import replace

from circuitgraph.architectures import llama
from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.config_fields import flag, number, whole
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, contradictions, fields_without, shape_of
from circuitgraph.architectures.norm import Norm

_FIELDS = fields_without(
    "head_dim", "rms_norm_eps", "attention_bias", "mlp_bias", norm_epsilon=number(), use_bias=flag(),
    sliding_window=whole(or_null=True),
)  # fmt: skip

FAMILY = replace(
    llama.FAMILY,
    name="starcoder2",
    model_classes=frozenset({"Starcoder2ForCausalLM"}),
    shape=lambda config: shape_of(config, mlp_matrices=2),
    bind=bind_with(
        lambda block, config, layer: block_of(
            block, norm=Norm.layer, mlp=with_short_gelu(block.mlp), window=config.sliding_window
        ),
        norm=Norm.layer,
    ),
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
    contradictions=contradictions,
    required={},
)
