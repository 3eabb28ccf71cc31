"""Prompts of a data set padded into one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitgraph.batch import PairBatch, TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.transfer import to_device
from pruning.prompts.spans import span_labels

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs


def pair_batch(
    pairs: EncodedPairs, indices: Iterable[int] | np.ndarray, *, pad_id: int, side: str, device: torch.device | str
) -> PairBatch:
    """Pad some of the prompts into one batch; see `pruning.prompts.encoding.EncodedPairs.batch`."""
    if side not in ("right", "left"):
        raise ConfigurationError(f"padding side must be 'right' or 'left', got {side!r}")
    chosen = [int(index) for index in indices]
    if not chosen:
        raise ConfigurationError("a batch needs at least one prompt, got none")
    width = max(len(pairs.clean_ids[index]) for index in chosen)
    starts = [width - len(pairs.clean_ids[i]) if side == "left" else 0 for i in chosen]
    asked = [pairs.predict_positions[i] for i in chosen]
    flat = [row * width + start + at for row, (start, at) in enumerate(zip(starts, asked, strict=True))]
    prompts = np.repeat(np.arange(len(chosen)), [len(at) for at in asked])
    labels = None
    if pairs.divided_by:
        labels = np.zeros((len(chosen), width), dtype=np.int64)
        for row, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            labels[row, start : start + len(pairs.clean_ids[index])] = span_labels(pairs, index)

    def tokens(column: tuple[np.ndarray, ...]) -> TokenBatch:
        ids = np.full((len(chosen), width), pad_id, dtype=np.int64)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        for row, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            ids[row, start : start + len(column[index])] = column[index]
            mask[row, start : start + len(column[index])] = 1
        return TokenBatch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            predict_index=torch.from_numpy(np.concatenate(flat)),
            predict_prompt=torch.from_numpy(prompts),
            span_ids=None if labels is None else torch.from_numpy(labels),
        ).to(device)

    return PairBatch(
        clean=tokens(pairs.clean_ids),
        corrupted=tokens(pairs.corrupted_ids),
        answer_ids=_joined(pairs.answer_ids, chosen, np.int64, device),
        answer_values=_joined(pairs.answer_values, chosen, np.float32, device),
        correct_ids=_padded(pairs.correct_ids, chosen, device),
        wrong_ids=_padded(pairs.wrong_ids, chosen, device),
        index=to_device(torch.tensor(chosen), device),
    )


def batches_by_length(by_length: Mapping[int, np.ndarray], batch_size: int) -> list[np.ndarray]:
    """All prompts once, in batches of one length each, so that none is padded.

    Args:
        by_length: The prompts of each length, such as `EncodedPairs.by_length`.
        batch_size: Prompts in a batch at most.

    Raises:
        ConfigurationError: It is below 1.

    Examples:
        >>> [some.tolist() for some in batches_by_length({4: np.array([0, 2, 5]), 6: np.array([1])}, 2)]
        [[0, 2], [5], [1]]
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1; got {batch_size}")
    return [
        members[start : start + batch_size]
        for members in by_length.values()
        for start in range(0, len(members), batch_size)
    ]


def _joined(
    column: tuple[np.ndarray, ...] | None, chosen: list[int], dtype: type, device: torch.device | str
) -> torch.Tensor | None:
    """Lay the answers of the chosen prompts end to end."""
    if column is None:
        return None
    return to_device(np.concatenate([column[index] for index in chosen]).astype(dtype), device)


def _padded(
    column: tuple[np.ndarray, ...] | None, chosen: list[int], device: torch.device | str
) -> torch.Tensor | None:
    """Stack sets of tokens of different sizes, padded with -1."""
    if column is None:
        return None
    rows = np.full((len(chosen), max(1, *(len(column[index]) for index in chosen))), -1, dtype=np.int64)
    for row, index in enumerate(chosen):
        rows[row, : len(column[index])] = column[index]
    return to_device(rows, device)
