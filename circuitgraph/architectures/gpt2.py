"""GPT-2: learned positions, layer norms, one fused query-key-value matrix, sequential blocks."""

from __future__ import annotations

from typing import Any

from torch import nn

from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import activation, flag, not_a_multiple, number, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape, Projection
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.n_layer,
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        d_model=config.n_embd,
        d_head=config.n_embd // config.n_head,
        d_mlp=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        d_vocab=config.vocab_size,
        n_positions=config.n_positions,
        learned_positions=True,
        mlp_saved=1,
        mlp_saved_narrow=4,
    )


def _scale(attention: Any) -> float:
    """The factor on scores; transformers before 5.4 keeps what it is made of."""
    if hasattr(attention, "scaling"):
        return attention.scaling
    scale = attention.head_dim**-0.5 if attention.scale_attn_weights else 1.0
    return scale / (attention.layer_idx + 1) if attention.scale_attn_by_inverse_layer_idx else scale


def _block(block: nn.Module) -> BoundBlock:
    attention: Any = block.attn
    width, n_heads = attention.embed_dim, attention.num_heads
    matrix, bias = attention.c_attn.weight, attention.c_attn.bias
    query, key, value = (
        Projection.of(matrix[:, part * width : (part + 1) * width], bias[part * width : (part + 1) * width], n_heads)
        for part in range(3)
    )
    return BoundBlock(
        attention_norm=Norm.layer(block.ln_1),  # type: ignore[arg-type]
        query=query,
        key=key,
        value=value,
        raw_output=attention.c_proj.weight,
        raw_output_bias=attention.c_proj.bias,
        attention=Attention(scale=_scale(attention)),
        mlp_norm=Norm.layer(block.ln_2),  # type: ignore[arg-type]
        mlp=with_short_gelu(block.mlp),  # type: ignore[arg-type]
    )


def _bind(model: Any) -> BoundModel:
    body = model.transformer
    return BoundModel(
        embed=lambda ids, positions: (body.wte(ids), body.wpe(positions)),
        blocks=tuple(_block(block) for block in body.h),
        final_norm=Norm.layer(body.ln_f),
        unembed=model.lm_head,
    )


FAMILY = Family(
    name="gpt2",
    model_classes=frozenset({"GPT2LMHeadModel"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(
        """vocab_size n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon
        scale_attn_weights scale_attn_by_inverse_layer_idx n_ctx""".split()
    ),
    fields={
        **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"), whole()),
        "n_inner": whole(or_null=True),
        "activation_function": activation(),
        "layer_norm_epsilon": number(),
        "scale_attn_weights": flag(),
        "scale_attn_by_inverse_layer_idx": flag(),
    },
    contradictions=lambda values: not_a_multiple(values, "n_embd", "n_head"),
    required={"reorder_and_upcast_attn": False, "add_cross_attention": False},
    harmless=frozenset(
        """resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation
        summary_proj_to_labels summary_first_dropout gradient_checkpointing""".split()
    ),
)
