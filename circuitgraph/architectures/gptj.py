"""GPT-J: parallel blocks with one layer norm for both parts.

- The first `rotary_dim` numbers of each head are turned by the position, each against its neighbour.
- No biases on the attention; an MLP without a gate; a bias on the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from circuitgraph.architectures.activations import with_short_gelu
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import activation, not_a_multiple, number, whole
from circuitgraph.architectures.family import BoundBlock, BoundModel, Family, ModelShape, Rotary
from circuitgraph.architectures.llama_like import block_with, separate
from circuitgraph.architectures.norm import Norm


class GPTJRotary(nn.Module):
    """The rotary embedding, which the model keeps as a table or makes itself, by its version of transformers.

    Args:
        width: How many numbers of a head are turned.
        device: Where the model lies.
    """

    inv_freq: Tensor

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        steps = torch.arange(0, width, 2, dtype=torch.int64).float() / width
        self.register_buffer("inv_freq", (1.0 / 10000**steps).to(device), persistent=False)

    def forward(self, x: Tensor, position_ids: Int[Tensor, "batch seq"]) -> Rotary:
        """Cosines and sines `[batch seq rotated]`, those of a pair side by side."""
        angles = (position_ids[..., None].float() * self.inv_freq.float()).repeat_interleave(2, -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.n_layer, n_heads=config.n_head, n_kv_heads=config.n_head, d_model=config.n_embd,
        d_head=config.n_embd // config.n_head, d_mlp=config.n_inner or 4 * config.n_embd, d_vocab=config.vocab_size,
        n_positions=config.n_positions, learned_positions=False, tabled_positions=True, block_order="parallel",
        mlp_saved=1, mlp_saved_narrow=4,
    )  # fmt: skip


def _block(block: Any) -> BoundBlock:
    own, norms = block.attn, (block.ln_1, block.ln_1)
    attention = Attention(scale=own.head_dim**-0.5, turned="pairs")
    return block_with(norms, separate(own), own.out_proj, attention, with_short_gelu(block.mlp))


def bind_with(model: Any, block: Callable[[Any], BoundBlock]) -> BoundModel:
    """Bind a model whose modules have these names.

    Args:
        model: The model.
        block: From a block of the model to the bound block.
    """
    body = model.transformer
    return BoundModel(
        embed=lambda ids, positions: (body.wte(ids),),
        blocks=tuple(block(own) for own in body.h),
        final_norm=Norm.layer(body.ln_f),
        unembed=model.lm_head,
        rotaries=(GPTJRotary(model.config.rotary_dim or model.config.n_embd, body.wte.weight.device),),
    )


_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
_FIELDS = {
    **dict.fromkeys(_SIZES, whole()), "rotary_dim": whole(or_null=True), "n_inner": whole(or_null=True),
    "activation_function": activation(), "layer_norm_epsilon": number(),
}  # fmt: skip

FAMILY = Family(
    name="gptj",
    model_classes=frozenset({"GPTJForCausalLM"}),
    shape=_shape,
    bind=lambda model: bind_with(model, _block),
    understood=frozenset(_FIELDS),
    fields=_FIELDS,
    contradictions=lambda values: not_a_multiple(values, "n_embd", "n_head"),
    required={},
    harmless=frozenset(
        "resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation "
        "summary_proj_to_labels summary_first_dropout".split()
    ),
)
