"""How a layer's heads attend in a plain run: the share of each position that each head gives to each other one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attention_mask, prepared, rotary_for, scores_of, shares_of, windowed
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.reference import to_query_heads


@torch.no_grad()
def attention_patterns(
    model: Runnable, ran: AblationValues, batch: TokenBatch, layer: int
) -> Float[Tensor, "head batch seq seq"]:
    """The attention of a layer's heads in a run, `[head, prompt, looking position, position looked at]`.

    Args:
        model: The model.
        ran: A run on the batch, of `CompiledModel.run_with_values`.
        batch: The prompts.
        layer: The layer.

    Returns:
        Rows of real tokens add up to 1, or to less where the layer has sinks, whose share is no position's; rows of
        padding mean nothing.

    Raises:
        ConfigurationError: The values are not those of a whole run.
    """
    if not ran.query:
        raise ConfigurationError(
            f"attention is that of a run, and values of kind {ran.ablation!r} have no queries and keys; take them with "
            "compiled.run_with_values(batch)[1]"
        )
    bound, shape = model.bound, model.shape
    attention = bound.blocks[layer].attention
    rotary = rotary_for(attention, rotaries_of(bound.rotaries, ran.embeddings[0], batch))
    query, key = ran.query[layer], ran.key[layer]
    query, key = (prepared(attention, kind, part, rotary) for kind, part in enumerate((query, key)))
    mask = attention_mask(batch.attention_mask, shape.causal, padded=batch.padded)
    mask = windowed(mask, attention, query.shape[2], query.device)
    scores = scores_of(
        query, to_query_heads(key, shape.n_heads), mask, causal=shape.causal, attention=attention
    )  # fmt: skip
    return shares_of(scores.softmax(-1), attention)
