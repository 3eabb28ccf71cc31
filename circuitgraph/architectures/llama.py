"""Llama: rotary positions, RMS norms, grouped or plain heads, gated MLP, sequential blocks.

SmolLM2, Llama 1 to 3 and CodeLlama are of this family. Rope scaling is the model's own module's, prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.config_fields import activation, flag, not_a_multiple, number, whole, wrong_rope
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape, Projection, Rotary
from circuitgraph.architectures.rms_norm import rms_norm
from circuitgraph.architectures.rotary import prompt_by_prompt


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_model=config.hidden_size,
        d_head=config.head_dim,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_positions=config.max_position_embeddings,
        learned_positions=False,
        mlp_saved=2,
        mlp_matrices=3,
    )


def _projection(linear: nn.Linear, d_head: int) -> Projection:
    return Projection(linear.weight.T, linear.bias, linear.weight.shape[0] // d_head)


def _block(block: Any) -> BoundBlock:
    attention = block.self_attn
    return BoundBlock(
        attention_norm=rms_norm(block.input_layernorm),
        query=_projection(attention.q_proj, attention.head_dim),
        key=_projection(attention.k_proj, attention.head_dim),
        value=_projection(attention.v_proj, attention.head_dim),
        output=attention.o_proj.weight.T,
        output_bias=attention.o_proj.bias,
        scale=attention.scaling,
        mlp_norm=rms_norm(block.post_attention_layernorm),
        mlp=GatedMLP(block.mlp),
    )


def _rotate(query: Tensor, key: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    return apply_rotary_pos_emb(query, key, *rotary, unsqueeze_dim=0)


def _bind(model: Any) -> BoundModel:
    body = model.model
    return BoundModel(
        embed=lambda ids, positions: (body.embed_tokens(ids),),
        blocks=tuple(_block(block) for block in body.layers),
        final_norm=rms_norm(body.norm),
        unembed=model.lm_head,
        rotary=prompt_by_prompt(body.rotary_emb),
        rotate=_rotate,
    )


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    yield from not_a_multiple(values, "hidden_size", "num_attention_heads")
    yield from not_a_multiple(values, "num_attention_heads", "num_key_value_heads")
    head = values.get("head_dim")
    if isinstance(head, int) and head % 2:
        yield f"head_dim={head}: expected an even number, its halves are turned against each other"
    yield from wrong_rope(values)


FAMILY = Family(
    name="llama",
    model_classes=frozenset({"LlamaForCausalLM"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset(
        """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
        hidden_act max_position_embeddings rms_norm_eps rope_parameters rope_scaling rope_theta attention_bias
        mlp_bias head_dim partial_rotary_factor""".split()
    ),
    fields={
        **dict.fromkeys(
            (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "max_position_embeddings",
            ),
            whole(),
        ),
        "num_key_value_heads": whole(or_null=True),
        "head_dim": whole(or_null=True),
        "hidden_act": activation(),
        "rms_norm_eps": number(),
        "attention_bias": flag(),
        "mlp_bias": flag(),
    },
    contradictions=_contradictions,
    required={"pretraining_tp": 1},
    harmless=frozenset({"attention_dropout"}),
)
