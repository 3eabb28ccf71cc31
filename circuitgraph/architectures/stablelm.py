"""StableLM: Llama with layer norms and a share of each head turned by its position.

- Parallel blocks with one norm for both parts if `use_parallel_residual` says so, else sequential ones with two.
- Biases on queries, keys and values if `use_qkv_bias`, layer norms of each head if `qk_layernorm` say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.attention import HeadNorm
from circuitgraph.architectures.config_fields import flag, number
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.norm import Norm

_FIELDS = like.fields_without(
    "head_dim", "rms_norm_eps", "attention_bias", "mlp_bias", layer_norm_eps=number(), use_qkv_bias=flag(),
    qk_layernorm=flag(), use_parallel_residual=flag(),
)  # fmt: skip


def _head_norm(module: Any) -> HeadNorm:
    return HeadNorm(kind="layer", weight=tuple(norm.weight for norm in module.norms), epsilon=module.norms[0].eps)


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.self_attn
    settings: dict[str, Any] = {}
    if config.qk_layernorm:
        settings = {"query_norm": _head_norm(own.q_layernorm), "key_norm": _head_norm(own.k_layernorm)}
    norm = block.input_layernorm if config.use_parallel_residual else block.post_attention_layernorm
    return like.block_of(block, norm=Norm.layer, mlp_norm=Norm.layer(norm), **settings)


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    found = list(like.contradictions_partly_turned(values))
    yield from found
    share = (values.get("rope_parameters") or values).get("partial_rotary_factor") if not found else None
    if share is not None:
        yield from like.not_halved(values, share)


FAMILY = replace(
    llama.FAMILY,
    name="stablelm",
    model_classes=frozenset({"StableLmForCausalLM"}),
    shape=lambda config: like.shape_of(
        config, block_order="parallel" if config.use_parallel_residual else "sequential"
    ),
    bind=like.bind_with(_block, norm=Norm.layer),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=_contradictions,
    required={},
)
