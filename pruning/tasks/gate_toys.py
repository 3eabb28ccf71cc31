"""Prompts of the toys in `circuitgraph.models.gate_toys`: all heads' tokens on, or all off, in the same places."""

from __future__ import annotations

import numpy as np
import torch

from circuitgraph.models import LoadedModel
from circuitgraph.models.gate_toys import NOISE
from pruning.prompts.encoding import EncodedPairs


def gate_prompts(toy: LoadedModel, n: int = 16, *, seed: int = 0) -> EncodedPairs:
    """Draw prompts: the heads' tokens in random order, with random noise between them; the last position is asked.

    Args:
        toy: What `gate_toy` gave.
        n: How many prompts.
        seed: Of order, noise and length.

    Returns:
        Pairs with the numbers that the toy says on either side as answers.

    Examples:
        >>> from circuitgraph.models.gate_toys import gate_toy
        >>> pairs = gate_prompts(gate_toy("and"), 4)
        >>> [float(one[0]) for one in pairs.answer_values], [float(one[0]) for one in pairs.corrupted_answers]
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    """
    rng = np.random.default_rng(seed)
    n_heads = toy.model.config.n_heads
    rows = []
    for _ in range(n):
        length = n_heads + int(rng.integers(1, 4))
        places = rng.permutation(length)[:n_heads]
        words = [NOISE[int(at)] for at in rng.integers(len(NOISE), size=length)]
        for head, at in enumerate(places.tolist(), start=1):
            words[at] = f"on{head}"
        rows.append((words, [word.replace("on", "off") for word in words]))
    sides = [[np.array(toy.tokenizer.encode_tokens(side), dtype=np.int64) for side in row] for row in rows]
    said = [[_said(toy, ids) for ids in row] for row in sides]
    return EncodedPairs(
        clean_ids=tuple(row[0] for row in sides),
        corrupted_ids=tuple(row[1] for row in sides),
        predict_positions=tuple(np.array([len(row[0]) - 1]) for row in sides),
        answer_values=tuple(row[0] for row in said),
        corrupted_answers=tuple(row[1] for row in said),
        texts=tuple(" ".join(row[0]) for row in rows),
        corrupted_texts=tuple(" ".join(row[1]) for row in rows),
    )


@torch.no_grad()
def _said(toy: LoadedModel, ids: np.ndarray) -> np.ndarray:
    return toy.model(torch.from_numpy(ids)[None]).logits[0, -1].double().numpy()
