"""What stands instead of a subject: one learnt vector, the mean of subjects, or the subject with noise on it.

- `null_token`: a vector that is learnt so that hiding the subject hurts least (`pruning.tracing.null_token`);
- `mean`: the mean of the embeddings of all subject tokens of the training prompts;
- `noise`: each subject token's own embedding, plus normal noise of 3 standard deviations of all numbers in these
  embeddings, drawn several times (Meng et al. 2022).

Embeddings are those of tokens; where positions have their own, they stay. Noise depends on a seed, the prompt's tokens
and the draw alone, not on the order of prompts.

References:
    Meng, Bau, Andonian, Belinkov 2022, Locating and editing factual associations in GPT (arXiv 2202.05262).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pruning.tracing.prompts import TracedBatch, TracedPrompts

NULL, MEAN, NOISE = CORRUPTIONS = ("null_token", "mean", "noise")
STRENGTH = 3.0
"""Standard deviations of the noise."""


def subject_embeddings(prompts: TracedPrompts) -> Float[Tensor, "token d_model"]:
    """The embeddings of all subject tokens.

    Args:
        prompts: The prompts.
    """
    return torch.cat([batch.run.tokens[batch.subject] for batch in prompts.batches])


def different_subjects(prompts: TracedPrompts) -> Float[Tensor, "token d_model"]:
    """The embeddings of all tokens that subjects are made of, each once, in the order of their ids.

    Args:
        prompts: The prompts.
    """
    ids = torch.cat([batch.pairs.clean.input_ids[:, batch.run.start :][batch.subject] for batch in prompts.batches])
    first = np.unique(ids.cpu().numpy(), return_index=True)[1]
    return subject_embeddings(prompts)[torch.from_numpy(first).to(ids.device)]


def noisy_tokens(
    prompts: TracedPrompts, batch: TracedBatch, spread: float, *, draws: int, seed: int
) -> Iterator[Float[Tensor, "1 prompt seq d_model"]]:
    """A batch's embeddings with noise on them, one draw after the other.

    Args:
        prompts: All of them.
        batch: Some.
        spread: The standard deviation of embeddings, of which the noise has three.
        draws: How many.
        seed: Of the noise.
    """
    tokens, end = batch.run.tokens, batch.run.start + batch.run.tokens.shape[1]
    keys = [zlib.crc32(prompts.pairs.clean_ids[row].astype("<i8").tobytes()) for row in batch.rows]
    for draw in range(draws):
        drawn = [np.random.default_rng([seed, key, draw]).standard_normal((end, tokens.shape[-1])) for key in keys]
        noise = torch.from_numpy(np.stack(drawn)[:, batch.run.start :]).to(tokens)
        yield (tokens + STRENGTH * spread * noise)[None]
