"""One head and one MLP with whole numbers for weights: a model to work out by hand.

The residual stream has three directions A, B and C. With tokens 0, 1, 2 at positions 0, 1, 2:

    tok     A  =  3 + 2 · token                          3, 5 or 7
    pos     B  =  1 + position                           1, 2 or 3
    a0.h0   q  =  1000 · (A − 4)                         never 0, so attention is all or nothing:
            k  =  B                                      A > 4 looks at the last position,
            v  =  A + 10 · B                             A < 4 at the first
            C +=  v of the position looked at
    a0      C +=  100                                    the attention's output bias: no head's
    m0      B +=  2 · max(0, A + C − 120) + 1            the 1 is the MLP's own bias
    logits     =  (A + B, C)

Scores lie 1000 or more apart, and exp(−1000) is 0 in every number format.
"""

from __future__ import annotations

import torch

from circuitgraph.tracr import TracrConfig, TracrModel


def micro_model() -> TracrModel:
    """Make the model, float64."""
    config = TracrConfig(
        program="micro",
        n_layers=1,
        n_heads=1,
        d_head=1,
        d_model=3,
        d_mlp=1,
        n_positions=3,
        d_out=2,
        output="categorical",
        tokens=("three", "five", "seven"),
        bos_token="three",
        pad_token="three",
        output_symbols=("A+B", "C"),
        residual_labels=("A", "B", "C"),
    )
    model = TracrModel(config).double()
    block = model.blocks[0]
    weights = {
        model.tok_embed.weight: [[3, 0, 0], [5, 0, 0], [7, 0, 0]],
        model.pos_embed.weight: [[0, 1, 0], [0, 2, 0], [0, 3, 0]],
        block.attn.q.weight: [[1000, 0, 0]],
        block.attn.q.bias: [-4000],
        block.attn.k.weight: [[0, 1, 0]],
        block.attn.v.weight: [[1, 10, 0]],
        block.attn.o.weight: [[0], [0], [1]],
        block.attn.o.bias: [0, 0, 100],
        block.mlp.fc_in.weight: [[1, 0, 1]],
        block.mlp.fc_in.bias: [-120],
        block.mlp.fc_out.weight: [[0], [2], [0]],
        block.mlp.fc_out.bias: [0, 1, 0],
        model.unembed.weight: [[1, 1, 0], [0, 0, 1]],
    }
    with torch.no_grad():
        for parameter, value in weights.items():
            parameter.copy_(torch.tensor(value))
    return model
