"""EXAONE 4: OLMo 3's blocks with Qwen 3's norms.

- Readers see the raw residual stream; norms stand behind the heads and behind the MLP, and on every query and key.
- Windows in the layers that `layer_types` names; only these turn by positions, unless no layer has a window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.config_fields import Field, types_of_layers, whole
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import head_norm, rms_norm

_PATTERN = Field("a whole number or a text", lambda value: isinstance(value, int | str), or_null=True)
_FIELDS = like.fields_without(
    "attention_bias", "mlp_bias", sliding_window=whole(or_null=True), layer_types=types_of_layers(),
    sliding_window_pattern=_PATTERN,
)  # fmt: skip


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own, window = block.self_attn, like.window_of(config, layer)
    return like.block_of(
        block,
        mlp_norm=Norm.none(),
        mlp=nn.Sequential(GatedMLP(block.mlp), rms_norm(block.post_feedforward_layernorm).module),
        heads_norm=rms_norm(block.post_attention_layernorm),
        query_norm=head_norm(own.q_norm),
        key_norm=head_norm(own.k_norm),
        window=window,
        rotary=0 if config.sliding_window is None or window is not None else None,
    )


FAMILY = replace(
    llama.FAMILY,
    name="exaone4",
    model_classes=frozenset({"Exaone4ForCausalLM"}),
    shape=lambda config: like.shape_of(config, head_scale="shared"),
    bind=like.bind_with(_block),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=like.contradictions,
    required={},
)
