"""Qwen 2 and 2.5: Llama with biases on queries, keys and values.

- Sliding windows in the layers that `layer_types` names, if `use_sliding_window` says so.
"""

from __future__ import annotations

from dataclasses import replace

from circuitgraph.architectures import llama
from circuitgraph.architectures.config_fields import flag, types_of_layers, whole
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, contradictions, fields_without, window_of

WINDOWS = {
    "use_sliding_window": flag(),
    "sliding_window": whole(or_null=True),
    "layer_types": types_of_layers(),
}
"""Fields that say which layers have which window."""
_FIELDS = fields_without("attention_bias", "mlp_bias", **WINDOWS)

FAMILY = replace(
    llama.FAMILY,
    name="qwen2",
    model_classes=frozenset({"Qwen2ForCausalLM"}),
    bind=bind_with(lambda block, config, layer: block_of(block, window=window_of(config, layer))),
    understood=frozenset(_FIELDS) | ROPE | {"max_window_layers"},
    fields=_FIELDS,
    contradictions=contradictions,
    required={},
)
