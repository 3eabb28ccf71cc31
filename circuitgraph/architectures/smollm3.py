"""SmolLM 3: Llama whose every fourth layer has no positions at all (NoPE).

- `no_rope_layers` has a 1 for each layer that turns queries and keys; windows as in Qwen 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama, qwen2
from circuitgraph.architectures.config_fields import Field
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, contradictions, fields_without, window_of

_TURNED = Field(
    "a list of 0 and 1, one a layer",
    lambda value: isinstance(value, list | tuple) and all(each in (0, 1) for each in value),
    or_null=True,
)
_FIELDS = fields_without(no_rope_layers=_TURNED, **qwen2.WINDOWS)


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    # As the model's masks have it: they go by `layer_types`, whatever `use_sliding_window` says.
    return block_of(block, rotary=0 if config.no_rope_layers[layer] else None, window=window_of(config, layer))


FAMILY = replace(
    llama.FAMILY,
    name="smollm3",
    model_classes=frozenset({"SmolLM3ForCausalLM"}),
    bind=bind_with(_block),
    understood=frozenset(_FIELDS) | ROPE | {"no_rope_layer_interval", "max_window_layers"},
    fields=_FIELDS,
    contradictions=contradictions,
)
