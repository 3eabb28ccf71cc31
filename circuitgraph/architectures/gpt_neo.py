"""GPT-Neo: GPT-2 with separate maps, scores that are not scaled, and windows in every second layer.

- `attention_layers` says which layers are `local` and see `window_size` positions; `attention_types` is its short form.
- No biases on queries, keys and values.
"""

from __future__ import annotations

from typing import Any

from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import activation, not_a_multiple, number, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape
from circuitgraph.architectures.llama_like import block_with, separate
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.num_layers, n_heads=config.num_heads, n_kv_heads=config.num_heads, d_model=config.hidden_size,
        d_head=config.hidden_size // config.num_heads, d_mlp=config.intermediate_size or 4 * config.hidden_size,
        d_vocab=config.vocab_size, n_positions=config.max_position_embeddings, learned_positions=True,
        mlp_saved=1, mlp_saved_narrow=4,
    )  # fmt: skip


def _block(block: Any, config: Any, layer: int) -> BoundBlock:
    own = block.attn.attention
    window = config.window_size if config.attention_layers[layer] == "local" else None
    norms = block.ln_1, block.ln_2
    return block_with(
        norms, separate(own), own.out_proj, Attention(scale=1.0, window=window), with_short_gelu(block.mlp)
    )


def _bind(model: Any) -> BoundModel:
    body = model.transformer
    return BoundModel(
        embed=lambda ids, positions: (body.wte(ids), body.wpe(positions)),
        blocks=tuple(_block(block, model.config, layer) for layer, block in enumerate(body.h)),
        final_norm=Norm.layer(body.ln_f),
        unembed=model.lm_head,
    )


_SIZES = ("vocab_size", "max_position_embeddings", "hidden_size", "num_layers", "num_heads", "window_size")
_FIELDS = {
    **dict.fromkeys(_SIZES, whole()), "intermediate_size": whole(or_null=True), "activation_function": activation(),
    "layer_norm_epsilon": number(),
}  # fmt: skip

FAMILY = Family(
    name="gpt_neo",
    model_classes=frozenset({"GPTNeoForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(_FIELDS) | {"attention_types", "attention_layers"},
    fields=_FIELDS,
    contradictions=lambda values: not_a_multiple(values, "hidden_size", "num_heads"),
    required={},
    harmless=frozenset(
        """resid_dropout embed_dropout attention_dropout classifier_dropout summary_type summary_use_proj
        summary_activation summary_proj_to_labels summary_first_dropout""".split()
    ),
)
