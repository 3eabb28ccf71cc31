"""Gemma, Gemma 2 and Gemma 3's text models.

- Norms keep their weights as differences from 1; the embedding is scaled by the root of its width, by its own module.
- Gemma 2: a norm behind the heads and one behind the MLP, too; scores and logits capped softly; windows in every
  second layer; scores scaled by `query_pre_attn_scalar`.
- Gemma 3: those norms and windows, no caps on scores; a norm on every query and key; another rotary base in layers
  with windows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.around import Logits
from circuitgraph.architectures.config_fields import activation, number, types_of_layers, whole
from circuitgraph.architectures.family import BoundBlock
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import head_norm, rms_norm

_CAP = number(1e-30, or_null=True)


def _norm(module: nn.Module) -> Norm:
    return rms_norm(module, offset=1.0)


def _embed(model: Any) -> Any:
    """The embedding, scaled: by its own module, or by the model, as in transformers 5.0."""
    table: Any = model.model.embed_tokens
    if hasattr(table, "embed_scale"):
        return lambda ids, positions: (table(ids),)
    factor = torch.tensor(model.config.hidden_size**0.5, dtype=table.weight.dtype, device=table.weight.device)
    return lambda ids, positions: (table(ids) * factor,)


def _between_norms(block: Any, config: Any, layer: int, **attention: Any) -> BoundBlock:
    """A block of Gemma 2 or 3: norms before and behind."""
    return like.block_of(
        block,
        norm=_norm,
        mlp_norm=_norm(block.pre_feedforward_layernorm),
        mlp=nn.Sequential(GatedMLP(block.mlp), _norm(block.post_feedforward_layernorm).module),
        heads_norm=_norm(block.post_attention_layernorm),
        window=like.window_of(config, layer),
        **attention,
    )


def _block_3(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.self_attn
    return _between_norms(
        block, config, layer, rotary=like.rotary_by_type(config, layer),
        query_norm=head_norm(own.q_norm, offset=1.0), key_norm=head_norm(own.k_norm, offset=1.0),
    )  # fmt: skip


_FIELDS = like.fields_without("mlp_bias")
FAMILY = replace(
    llama.FAMILY,
    name="gemma",
    model_classes=frozenset({"GemmaForCausalLM"}),
    shape=lambda config: like.shape_of(config, mlp_saved=4),
    bind=like.bind_with(lambda block, config, layer: like.block_of(block, norm=_norm), norm=_norm, embed=_embed),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    contradictions=like.contradictions,
    required={"use_bidirectional_attention": False},
)

_FIELDS = like.fields_without(
    "hidden_act", "mlp_bias", hidden_activation=activation(), query_pre_attn_scalar=number(1e-30),
    sliding_window=whole(or_null=True), layer_types=types_of_layers(), attn_logit_softcapping=_CAP,
    final_logit_softcapping=_CAP,
)  # fmt: skip
GEMMA2 = replace(
    FAMILY,
    name="gemma2",
    model_classes=frozenset({"Gemma2ForCausalLM"}),
    shape=lambda config: like.shape_of(config, mlp_saved=4, head_scale="shared"),
    bind=like.bind_with(
        lambda block, config, layer: _between_norms(block, config, layer, cap=config.attn_logit_softcapping),
        norm=_norm,
        embed=_embed,
        unembed=lambda model: Logits(model.lm_head, cap=model.config.final_logit_softcapping),
    ),
    understood=frozenset(_FIELDS) | like.ROPE,
    fields=_FIELDS,
    required={"use_bidirectional_attention": False, "attention_bias": False},
)
GEMMA3 = replace(
    GEMMA2,
    name="gemma3_text",
    model_classes=frozenset({"Gemma3ForCausalLM"}),
    bind=like.bind_with(
        _block_3,
        norm=_norm,
        embed=_embed,
        unembed=lambda model: Logits(model.lm_head, cap=model.config.final_logit_softcapping),
        rotaries=like.rotaries_by_type,
    ),
    contradictions=like.contradictions_by_type,
    harmless=GEMMA2.harmless | {"sliding_window_pattern", "_sliding_window_pattern", "rope_local_base_freq"},
    required={"use_bidirectional_attention": False, "attention_bias": False, "attn_logit_softcapping": None},
)
