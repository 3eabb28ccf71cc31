"""ModernBERT, an encoder: every position sees those before and behind it, and masked tokens are filled in.

- Its norms stand before each part, unlike BERT's, which stand on the residual stream itself: so writers add up.
- The embedding has a norm behind it, and the first layer none before its attention; layer norms, gated MLPs with one
  first matrix, queries, keys and values in one matrix.
- Windows in the layers that `layer_types` names, as far ahead as behind; two rotary bases, by type of layer.
- Before the output head stands a map with an activation and a norm, which belongs to the logits' reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from circuitgraph.architectures import llama
from circuitgraph.architectures import llama_like as like
from circuitgraph.architectures.around import BehindMap
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import activation, flag, not_a_multiple, number, types_of_layers, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, ModelShape
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return like.shape_of(config, causal=False, mlp_saved=4)


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.attn
    query, key, value = like.fused(own.Wqkv.weight, own.Wqkv.bias, [config.hidden_size] * 3, own.head_dim)
    window = own.sliding_window  # its own place among them
    return BoundBlock(
        attention_norm=Norm.none() if layer == 0 else Norm.layer(block.attn_norm),
        query=query,
        key=key,
        value=value,
        raw_output=own.Wo.weight.T,
        raw_output_bias=own.Wo.bias,
        attention=Attention(
            scale=own.head_dim**-0.5, window=window, ahead=True, rotary=like.rotary_by_type(config, layer)
        ),
        mlp_norm=Norm.layer(block.mlp_norm),
        mlp=block.mlp,
    )


def _bind(model: Any) -> BoundModel:
    body = model.model
    return BoundModel(
        embed=lambda ids, positions: (body.embeddings(input_ids=ids),),
        blocks=tuple(_block(block, model.config, layer) for layer, block in enumerate(body.layers)),
        final_norm=Norm.layer(body.final_norm),
        unembed=BehindMap(model.head, model.decoder),
        rotaries=like.rotaries_by_type(model),
    )


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    uneven = list(not_a_multiple(values, "hidden_size", "num_attention_heads"))
    yield from uneven or like.not_halved(values)
    yield from like.contradictions_by_type(values)


_FIELDS = {
    **dict.fromkeys([*like.SIZES, "local_attention"], whole()), "layer_types": types_of_layers(), "norm_eps": number(),
    **dict.fromkeys("norm_bias attention_bias mlp_bias decoder_bias classifier_bias".split(), flag()),
    **dict.fromkeys(("hidden_activation", "classifier_activation"), activation()),
}  # fmt: skip
_OLDER = ("rope_parameters", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
FAMILY = replace(
    llama.FAMILY,
    name="modernbert",
    model_classes=frozenset({"ModernBertForMaskedLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS) | set(_OLDER),
    fields=_FIELDS,
    contradictions=_contradictions,
    required={},
    harmless=frozenset(
        """attention_dropout embedding_dropout mlp_dropout classifier_dropout classifier_pooling
        initializer_cutoff_factor deterministic_flash_attn sparse_prediction sparse_pred_ignore_index
        reference_compile repad_logits_with_grad position_embedding_type""".split()
    ),
    fills_masks=True,
)
