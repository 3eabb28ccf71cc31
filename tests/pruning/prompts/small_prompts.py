"""Random prompts of a few tokens: unequal lengths, unequal numbers of asked positions, sets of answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from pruning.prompts.encoding import EncodedPairs


def random_prompts(
    *, lengths: Sequence[int], n_asked: Sequence[int] = (1,), n_tokens: int = 29, wrong: bool = False, seed: int = 0
) -> EncodedPairs:
    """Make prompts.

    Args:
        lengths: Tokens of each prompt.
        n_asked: How many of a prompt's last positions are asked, prompt after prompt, from the start again.
        n_tokens: Size of the vocabulary.
        wrong: Whether there are sets of right and wrong tokens, of 1 to 3 and 1 to 2 tokens.
        seed: Of the tokens.
    """
    rng = np.random.default_rng(seed)
    asked = [n_asked[i % len(n_asked)] for i in range(len(lengths))]
    clean = tuple(rng.integers(0, n_tokens, length) for length in lengths)
    corrupted = tuple(rng.integers(0, n_tokens, length) for length in lengths)
    sets = [rng.permutation(n_tokens)[:5] for _ in lengths]
    return EncodedPairs(
        clean_ids=clean,
        corrupted_ids=corrupted,
        predict_positions=tuple(np.arange(n - k, n) for n, k in zip(lengths, asked, strict=True)),
        answer_ids=tuple(rng.integers(0, n_tokens, k) for k in asked),
        correct_ids=tuple(row[: 1 + i % 3] for i, row in enumerate(sets)) if wrong else None,
        wrong_ids=tuple(row[3 : 4 + i % 2] for i, row in enumerate(sets)) if wrong else None,
        texts=tuple(f"prompt {i}" for i in range(len(lengths))),
    )


class GlobalRandomState:
    """The states of torch's and numpy's generators, to be compared before and after.

    Python's own is left out: the type checks of the tests (beartype) draw from it.
    """

    def __init__(self) -> None:
        self.torch = torch.get_rng_state()
        self.numpy = copy.deepcopy(np.random.get_state())

    def assert_untouched(self) -> None:
        assert torch.equal(torch.get_rng_state(), self.torch)
        now = np.random.get_state()
        assert now[0] == self.numpy[0] and (now[1] == self.numpy[1]).all() and now[2:] == self.numpy[2:]
