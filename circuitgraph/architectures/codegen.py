"""CodeGen: GPT-J with queries, values and keys in one matrix.

- The matrix is in four parts, one of each four heads' share; a part has its heads' queries, then values, then keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from circuitgraph.architectures import gptj
from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import not_a_multiple
from circuitgraph.architectures.family import BoundBlock, Projection
from circuitgraph.architectures.llama_like import block_with

_PARTS = 4


def _block(block: Any) -> BoundBlock:
    own, norms = block.attn, (block.ln_1, block.ln_1)
    rows = own.qkv_proj.weight.unflatten(0, (_PARTS, 3, own.num_attention_heads // _PARTS, own.head_dim))
    query, value, key = (Projection(rows[:, part].transpose(2, 3), None) for part in range(3))
    attention = Attention(scale=own.head_dim**-0.5, turned="pairs")
    return block_with(norms, (query, key, value), own.out_proj, attention, with_short_gelu(block.mlp))


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    yield from gptj.FAMILY.contradictions(values)
    if isinstance(values.get("n_head"), int):
        yield from not_a_multiple({**values, "4": _PARTS}, "n_head", "4")


FAMILY = replace(
    gptj.FAMILY,
    name="codegen",
    model_classes=frozenset({"CodeGenForCausalLM"}),
    bind=lambda model: gptj.bind_with(model, _block),
    contradictions=_contradictions,
    harmless=gptj.FAMILY.harmless | {"n_ctx"},
)
