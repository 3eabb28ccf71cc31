"""Mistral: Llama with sliding windows, the same in every layer, and without biases.

`sliding_window` counts the positions that a query sees, its own among them; null hides none. Later Mistrals have null.
"""

from __future__ import annotations

from dataclasses import replace

from circuitgraph.architectures import llama
from circuitgraph.architectures.config_fields import whole
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, fields_without

_FIELDS = fields_without("attention_bias", "mlp_bias", sliding_window=whole(or_null=True))

FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    model_classes=frozenset({"MistralForCausalLM"}),
    bind=bind_with(lambda block, config, layer: block_of(block, window=config.sliding_window)),
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
    required={},
)
