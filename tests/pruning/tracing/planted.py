"""A model whose facts were planted: a subject's last token gets its fact from one MLP, and one layer's heads fetch it.

Prompts are `<bos> first last is`. The MLP of layer 1 turns the last subject token into a fact; at `is` the head of
layer 2 looks at the token that has a fact and says it. Everything else says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.tracr.model import TracrConfig, TracrModel
from pruning.prompts.encoding import EncodedPairs

TOKENS = ("<bos>", "<pad>", "x", "y", "z", "is", "p", "q")
SUBJECTS, IS, FIRST = (2, 3, 4), 5, (6, 7)
LABELS = ("x", "y", "z", "is", "fact u", "fact v", "fact w", "u", "v", "w", "p", "q")
FACT_LAYER, READING_LAYER = 1, 2


def planted() -> CompiledModel:
    model = TracrModel(
        TracrConfig(
            program="planted", n_layers=4, n_heads=1, d_head=4, d_model=len(LABELS), d_mlp=3, n_positions=8, d_out=3,
            output="categorical", tokens=TOKENS, bos_token="<bos>", pad_token="<pad>", output_symbols=("u", "v", "w"),
            residual_labels=LABELS, causal=True,
        )
    ).double()  # fmt: skip
    with torch.no_grad():
        for place, subject in enumerate(SUBJECTS):
            model.tok_embed.weight[subject, place] = 1
            fact = model.blocks[FACT_LAYER].mlp
            fact.fc_in.weight[place, place], fact.fc_in.bias[place] = 2, -1
            fact.fc_out.weight[4 + place, place] = 1
            read = model.blocks[READING_LAYER].attn
            read.k.weight[0, 4 + place] = 1
            read.v.weight[place, 4 + place] = read.o.weight[7 + place, place] = 1
            model.unembed.weight[place, 7 + place] = 8
        model.tok_embed.weight[IS, 3] = read.q.weight[0, 3] = 1
        read.q.weight[0, 3] = 40
        for place, first in enumerate(FIRST):
            model.tok_embed.weight[first, 10 + place] = 1
    return compile_model(model, embeddings="split", verify=False)


def asked(subjects: Sequence[int], *, wrong: Sequence[int] = ()) -> EncodedPairs:
    """Prompts with these last subject tokens, counted from 0; `wrong` ones ask for another answer than the model's."""
    ids = tuple(np.array([0, FIRST[at % 2], SUBJECTS[one], IS]) for at, one in enumerate(subjects))
    answers = [(one + (at in wrong)) % 3 for at, one in enumerate(subjects)]
    return EncodedPairs(
        clean_ids=ids, corrupted_ids=tuple(np.array([0, 6, SUBJECTS[one - 1], IS]) for one in subjects),
        predict_positions=tuple(np.array([3]) for _ in ids), answer_ids=tuple(np.array([one]) for one in answers),
        spans=((("start", 0), ("subject", 1), ("end", 3)),) * len(ids),
        texts=tuple(f"prompt {one}" for one in subjects),
    )  # fmt: skip
