"""Llama: the plain case, which the other families of its kind are told apart from.

- Rotary positions, RMS norms before attention and MLP, grouped or plain heads, a gated MLP, sequential blocks.
- Biases where the config says so.
- SmolLM2, Llama 1 to 3 and CodeLlama are of this family. Rope scaling is the model's own module's, prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from circuitgraph.architectures.config_fields import not_a_multiple
from circuitgraph.architectures.family import Family
from circuitgraph.architectures.llama_like import FIELDS, ROPE, bind_with, block_of, contradictions, shape_of


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("head_dim") is not None:  # transformers insists on it, though nothing depends on it
        yield from not_a_multiple(values, "hidden_size", "num_attention_heads")
    yield from contradictions(values)


FAMILY = Family(
    name="llama",
    model_classes=frozenset({"LlamaForCausalLM"}),
    shape=shape_of,
    bind=bind_with(lambda block, config, layer: block_of(block)),
    understood=frozenset(FIELDS) | ROPE,
    fields=FIELDS,
    contradictions=_contradictions,
    required={"pretraining_tp": 1},
    harmless=frozenset({"attention_dropout"}),
)
