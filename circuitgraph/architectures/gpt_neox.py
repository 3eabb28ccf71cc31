"""GPT-NeoX: Pythia and its kin.

- Parallel blocks with a layer norm for each part if `use_parallel_residual` says so (it does in Pythia), else
  sequential ones.
- Queries, keys and values are one matrix, those of a head side by side; a share of each head is turned by its position.
- Biases everywhere but on the logits; an MLP without a gate.
"""

from __future__ import annotations

from typing import Any

from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import flag, number
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rotary import prompt_by_prompt

_FIELDS = like.fields_without(
    "head_dim", "num_key_value_heads", "rms_norm_eps", "mlp_bias", layer_norm_eps=number(), use_parallel_residual=flag()
)


def _shape(config: Any) -> ModelShape:
    order = "parallel" if config.use_parallel_residual else "sequential"
    return like.shape_of(config, block_order=order, mlp_saved=2, mlp_matrices=2)


def _block(block: Any, n_heads: int) -> BoundBlock:
    own = block.attention
    projections = like.interleaved(own.query_key_value.weight, own.query_key_value.bias, n_heads)
    norms = block.input_layernorm, block.post_attention_layernorm
    return like.block_with(norms, projections, own.dense, Attention(scale=own.scaling), with_short_gelu(block.mlp))


def _bind(model: Any) -> BoundModel:
    body = model.gpt_neox
    return BoundModel(
        embed=lambda ids, positions: (body.embed_in(ids),),
        blocks=tuple(_block(block, model.config.num_attention_heads) for block in body.layers),
        final_norm=Norm.layer(body.final_layer_norm),
        unembed=model.embed_out if hasattr(model, "embed_out") else model.lm_head,
        rotaries=(prompt_by_prompt(body.rotary_emb),),
    )


FAMILY = Family(
    name="gpt_neox",
    model_classes=frozenset({"GPTNeoXForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS) | like.ROPE | {"rotary_pct", "rotary_emb_base"},
    fields=_FIELDS,
    contradictions=like.contradictions_partly_turned,
    required={},
    harmless=frozenset({"attention_dropout", "hidden_dropout", "classifier_dropout"}),
)
