"""Granite: Llama with factors.

- Embeddings times `embedding_multiplier`; what heads and MLPs write times `residual_multiplier`; logits over
  `logits_scaling`; scores times `attention_multiplier` instead of one over the root of a head's width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.around import Logits, Times
from circuitgraph.architectures.config_fields import number
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.llama_like import ROPE, bind_with, block_of, contradictions, fields_without

_FIELDS = fields_without(
    embedding_multiplier=number(), logits_scaling=number(1e-30), residual_multiplier=number(),
    attention_multiplier=number(),
)  # fmt: skip


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    factor = config.residual_multiplier
    return block_of(block, output_factor=factor, mlp=Times(GatedMLP(block.mlp), factor))


FAMILY = replace(
    llama.FAMILY,
    name="granite",
    model_classes=frozenset({"GraniteForCausalLM"}),
    bind=bind_with(
        _block,
        embed=lambda model: lambda ids, positions: (model.model.embed_tokens(ids) * model.config.embedding_multiplier,),
        unembed=lambda model: Logits(model.lm_head, factor=1 / model.config.logits_scaling),
    ),
    understood=frozenset(_FIELDS) | ROPE,
    fields=_FIELDS,
    contradictions=contradictions,
    required={},
)
