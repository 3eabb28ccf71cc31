"""Prompts and their counterfactuals the other way round: what makes denoising of noising.

Noising runs the clean prompt and lets cut edges carry the corrupted one; denoising runs the corrupted prompt and lets
cut edges carry the clean one. So denoising is noising of swapped pairs, with the full model on the corrupted prompt as
the teacher, and whatever ranks, trains or measures does both.

What is asked of a swapped pair is the counterfactual's own answer, where it has one (`corrupted_answer` of a pair).
Where it has none nothing is known to be right: measures that compare with the full model still hold, those that need
an answer are refused by name.

References:
    Identifying AND, OR and ADDER gates by noising and denoising: arXiv 2505.10039, appendices B.1 and E.3.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs

NOISING, DENOISING, BOTH = DIRECTIONS = ("noising", "denoising", "both")
"""Clean prompts with corrupted values on cut edges, the other way round, and both put together."""
Column = tuple[np.ndarray, ...]


def swapped_pairs(pairs: EncodedPairs) -> EncodedPairs:
    """Swap prompts and counterfactuals; swapped twice they run the same tokens again.

    Answers become the counterfactuals' own where all of them are known, and the former answers are the wrong ones then,
    where there were any; else no answer is known. Further right and wrong answers stay behind.

    Args:
        pairs: The pairs.

    Returns:
        New pairs; the same positions are asked, or those of the other answer where it has as many tokens as it has.

    Raises:
        PromptFormatError: Answers are numbers, and those of the counterfactuals are not known.

    Examples:
        >>> from pruning.prompts.encoding import EncodedPairs
        >>> pairs = EncodedPairs(
        ...     clean_ids=(np.array([5, 1]),), corrupted_ids=(np.array([5, 2]),), predict_positions=(np.array([1]),),
        ...     answer_ids=(np.array([7]),), corrupted_answers=(np.array([8]),),
        ... )
        >>> other = swapped_pairs(pairs)
        >>> other.clean_ids[0].tolist(), other.answer_ids[0].tolist()
        ([5, 2], [8])
        >>> swapped_pairs(other).clean_ids[0].tolist(), swapped_pairs(other).answer_ids[0].tolist()
        ([5, 1], [7])
    """
    own = pairs.corrupted_answers
    sides = replace(
        pairs, clean_ids=pairs.corrupted_ids, corrupted_ids=pairs.clean_ids, texts=pairs.corrupted_texts,
        corrupted_texts=pairs.texts, correct_ids=None, wrong_ids=None, spacing=(),
    )  # fmt: skip
    if pairs.answer_values is not None:
        if own is None:
            raise PromptFormatError(
                "the sides cannot be swapped: answers are numbers, and those of the counterfactuals are not known; "
                "give them as corrupted_answers"
            )
        return replace(sides, answer_values=own, corrupted_answers=pairs.answer_values)
    if own is None:
        return replace(sides, answer_ids=None, corrupted_answers=pairs.answer_ids)
    return _with_answers(sides, pairs, own)


def _with_answers(sides: EncodedPairs, pairs: EncodedPairs, own: Column) -> EncodedPairs:
    """Ask the counterfactuals' own answers, which may have other numbers of tokens."""
    known = [ids[:1] for ids in own]
    return replace(
        sides,
        **(_rewritten(pairs, own) if pairs.prompt_lengths else {}),
        answer_ids=own,
        correct_ids=tuple(known),
        wrong_ids=None if pairs.wrong_ids is None or pairs.answer_ids is None else tuple(
            right[:1][right[:1] != first] for right, first in zip(pairs.answer_ids, known, strict=True)
        ),
        corrupted_answers=pairs.answer_ids,
    )  # fmt: skip


def _rewritten(pairs: EncodedPairs, own: Column) -> dict[str, Any]:
    """Both sides with the other answer in its place, where it is asked, and how much of each is the prompt."""
    rows = [
        (_with_answer(other, n, asked, answer), _with_answer(clean, n, asked, answer), n, asked, len(answer))
        for clean, other, n, asked, answer in zip(
            pairs.clean_ids, pairs.corrupted_ids, pairs.prompt_lengths, pairs.predict_positions, own, strict=True
        )
    ]
    return {
        "clean_ids": tuple(turned for turned, *_ in rows),
        "corrupted_ids": tuple(turned for _, turned, *_ in rows),
        "predict_positions": tuple(np.arange(asked[0], asked[0] + size) for *_, asked, size in rows),
        "prompt_lengths": tuple(len(turned) if _at_masks(n, asked) else n for turned, _, n, asked, _ in rows),
    }


def _at_masks(n: int, asked: np.ndarray) -> bool:
    """Whether a prompt of so many tokens is asked at masks within it, and not behind it."""
    return int(asked[0]) != n - 1


def _with_answer(ids: np.ndarray, n: int, asked: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """A side up to the answer and all of the answer's tokens but the last; or with as many masks as it has tokens."""
    if not _at_masks(n, asked):
        return np.concatenate([ids[:n], answer[:-1]])
    first, last = int(asked[0]), int(asked[-1])
    return np.concatenate([ids[:first], np.full(len(answer), ids[first]), ids[last + 1 :]])


def both_ways(pairs: EncodedPairs) -> EncodedPairs:
    """The pairs as they are, and swapped after them, for what goes over both in one pass.

    Args:
        pairs: The pairs.

    Returns:
        Twice as many; a kind of answer that one of the two lacks is in neither.

    Raises:
        PromptFormatError: They cannot be swapped.
    """
    other = swapped_pairs(pairs)
    names = (
        "clean_ids", "corrupted_ids", "predict_positions", "answer_ids", "answer_values", "correct_ids", "wrong_ids",
        "corrupted_answers", "texts", "groups", "corrupted_texts", "sources", "prompt_lengths", "unknown",
        "spans",
    )  # fmt: skip
    columns = {name: (getattr(pairs, name), getattr(other, name)) for name in names}
    joined = {
        name: first + second if first and second else None if first is None or second is None else ()
        for name, (first, second) in columns.items()
    }
    return replace(pairs, **joined, spacing=())


def begins_with(direction: str) -> str:
    """Which way the prompts stand first in a direction: `both` begins with noising.

    Args:
        direction: `noising`, `denoising` or `both`.
    """
    return DENOISING if direction == DENOISING else NOISING


def require_direction(direction: str, ablation: str) -> None:
    """Refuse a direction that there is not, or other than noising where cut edges carry no other prompt.

    Args:
        direction: What was asked for.
        ablation: What cut edges carry.

    Raises:
        UnknownNameError: There is no such direction.
        ConfigurationError: The two do not go together.
    """
    if direction not in DIRECTIONS:
        raise UnknownNameError.of("direction", direction, DIRECTIONS)
    if direction != NOISING and ablation != "counterfactual":
        raise ConfigurationError(
            f"direction {direction!r} restores clean values in the corrupted run, which needs counterfactual ablation; "
            f"got {ablation!r}, under which a cut edge carries no other prompt's values. Leave out the direction, or "
            "choose --ablation counterfactual"
        )
