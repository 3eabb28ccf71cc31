"""Qwen 3: Llama with an RMS norm on every query and key, the same weights for all heads.

- Biases on all four projections if `attention_bias` says so; windows as in Qwen 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import qwen2
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, fields_without, window_of
from circuitgraph.architectures.rms_norm import head_norm

_FIELDS = fields_without("mlp_bias", **qwen2.WINDOWS)


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    attention = block.self_attn
    return block_of(
        block,
        window=window_of(config, layer),
        query_norm=head_norm(attention.q_norm),
        key_norm=head_norm(attention.k_norm),
    )


FAMILY = replace(
    qwen2.FAMILY,
    name="qwen3",
    model_classes=frozenset({"Qwen3ForCausalLM"}),
    bind=bind_with(_block),
    understood=frozenset(_FIELDS) | ROPE | {"max_window_layers"},
    fields=_FIELDS,
)
