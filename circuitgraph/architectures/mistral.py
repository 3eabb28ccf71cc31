"""Mistral: Llama with sliding windows, the same in every layer, and without biases.

`sliding_window` counts the positions that a query sees, its own among them; null hides none. Later Mistrals have null.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures.config_fields import whole
from circuitgraph.architectures.family import BoundModel

_BIASES = {"attention_bias", "mlp_bias"}


def _bind(model: Any) -> BoundModel:
    bound, window = llama.FAMILY.bind(model), model.config.sliding_window
    return replace(bound, blocks=tuple(replace(block, window=window) for block in bound.blocks))


FAMILY = replace(
    llama.FAMILY,
    name="mistral",
    model_classes=frozenset({"MistralForCausalLM"}),
    bind=_bind,
    understood=llama.FAMILY.understood - _BIASES | {"sliding_window"},
    fields={name: kind for name, kind in llama.FAMILY.fields.items() if name not in _BIASES}
    | {"sliding_window": whole(or_null=True)},
    required={},
)
