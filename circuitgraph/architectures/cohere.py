"""Cohere's Command R (`cohere`) and Command R7B (`cohere2`).

- Parallel blocks with one layer norm for both parts, without biases; logits times `logit_scale`.
- Each number of a head is turned against its neighbour.
- Cohere: a norm on queries and keys with weights of each head, if `use_qk_norm` says so.
- Cohere 2: windows in the layers that `layer_types` names; only these turn by positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.around import Logits
from circuitgraph.architectures.attention import HeadNorm
from circuitgraph.architectures.config_fields import flag, number, types_of_layers, whole
from circuitgraph.architectures.family import BoundBlock, ModelShape
from circuitgraph.architectures.norm import Norm


def _norm(module: nn.Module) -> Norm:
    own: Any = module
    return Norm(
        module=module, kind="layer", weight=own.weight, epsilon=float(own.variance_epsilon), in_float32=True
    )  # fmt: skip


def _shape(config: Any) -> ModelShape:
    return like.shape_of(config, block_order="parallel")


def _head_norm(module: Any) -> HeadNorm:
    return HeadNorm(kind="layer", weight=module.weight, epsilon=float(module.variance_epsilon), in_float32=True)


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.self_attn
    norms: dict[str, Any] = {}
    if config.use_qk_norm:
        norms = {"query_norm": _head_norm(own.q_norm), "key_norm": _head_norm(own.k_norm)}
    return like.block_of(block, norm=_norm, mlp_norm=_norm(block.input_layernorm), turned="pairs", **norms)


def _block_2(block: Any, config: Any, layer: int) -> BoundBlock:
    window = like.window_of(config, layer)
    turned: Any = {"turned": "pairs", "rotary": 0 if config.layer_types[layer] == "sliding_attention" else None}
    return like.block_of(block, norm=_norm, mlp_norm=_norm(block.input_layernorm), window=window, **turned)


def _unembed(model: Any) -> Logits:
    return Logits(model.lm_head, factor=model.config.logit_scale)


_FIELDS = like.fields_without(
    "head_dim", "rms_norm_eps", "mlp_bias", layer_norm_eps=number(), logit_scale=number(), use_qk_norm=flag()
)
FAMILY = replace(
    llama.FAMILY,
    name="cohere",
    model_classes=frozenset({"CohereForCausalLM"}),
    shape=_shape,
    bind=like.bind_with(_block, norm=_norm, unembed=_unembed),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=like.contradictions,
    required={},
)
_FIELDS = like.fields_without(
    "rms_norm_eps", "mlp_bias", layer_norm_eps=number(), logit_scale=number(), sliding_window=whole(or_null=True),
    layer_types=types_of_layers(),
)  # fmt: skip
COHERE2 = replace(
    FAMILY,
    name="cohere2",
    model_classes=frozenset({"Cohere2ForCausalLM"}),
    bind=like.bind_with(_block_2, norm=_norm, unembed=_unembed),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
)
