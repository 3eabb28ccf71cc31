"""Tracr: learned positions, no norms, biases everywhere, attention both ways, heads of any size.

The models of `circuitgraph.tracr`. What they put out is a column per symbol, or a single number, so
`d_vocab` is the number of output columns and not of input tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.family import (
    BoundBlock,
    BoundModel,
    Family,
    ModelShape,
    Projection,
)
from circuitgraph.architectures.norm import Norm


def _shape(config: Any) -> ModelShape:
    return ModelShape(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_heads,
        d_model=config.d_model,
        d_head=config.d_head,
        d_mlp=config.d_mlp,
        d_vocab=config.d_out,
        n_positions=config.n_positions,
        learned_positions=True,
        causal=config.causal,
        mlp_saved=1,
    )


def _projection(linear: nn.Linear, n_heads: int) -> Projection:
    return Projection.of(linear.weight.T, linear.bias, n_heads)


def _block(block: Any) -> BoundBlock:
    attention = block.attn
    return BoundBlock(
        attention_norm=Norm.none(),
        query=_projection(attention.q, attention.n_heads),
        key=_projection(attention.k, attention.n_heads),
        value=_projection(attention.v, attention.n_heads),
        raw_output=attention.o.weight.T,
        raw_output_bias=attention.o.bias,
        attention=Attention(scale=attention.d_head**-0.5),
        mlp_norm=Norm.none(),
        mlp=block.mlp,
    )


def _bind(model: Any) -> BoundModel:
    return BoundModel(
        embed=lambda ids, positions: (model.tok_embed(ids), model.pos_embed(positions)),
        blocks=tuple(_block(block) for block in model.blocks),
        final_norm=Norm.none(),
        unembed=model.unembed,
    )


def _random_ids(config: Any, real: Int[Tensor, "batch seq"], generator: torch.Generator) -> Int[Tensor, "batch seq"]:
    """Draw prompts of the program: BOS, then its own tokens.

    On other prompts the compiled weights (100 and more) blow rounding up until the logits show it.
    """
    special = (config.bos_token, config.pad_token)
    allowed = torch.tensor([index for index, token in enumerate(config.tokens) if token not in special])
    ids = allowed[torch.randint(0, len(allowed), real.shape, generator=generator)]
    starts = (real.cumsum(-1) == 1) & real.bool()
    return ids.masked_fill(starts, config.tokens.index(config.bos_token))


FAMILY = Family(
    name="tracr",
    model_classes=frozenset({"TracrModel"}),
    shape=_shape,
    bind=_bind,
    understood=frozenset("n_layers n_heads d_head d_model d_mlp n_positions d_out output tokens causal".split()),
    required={},
    harmless=frozenset("program bos_token pad_token output_symbols residual_labels".split()),
    random_ids=_random_ids,
)
