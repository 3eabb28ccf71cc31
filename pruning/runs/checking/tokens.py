"""Doubts about prompts that tokens alone give rise to; no model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from pruning.findings import Finding
from pruning.runs.checking.requirements import same_tokens

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs

_SPACES = ("Ġ", "▁", " ")


def token_doubts(splits: Mapping[str, EncodedPairs], tokenizer: object, *, ablation: str) -> list[Finding]:
    """Look at the tokens of every prompt.

    Args:
        splits: The prompts by split; those without any are passed over.
        tokenizer: The model's.
        ablation: What cut edges carry; counterfactuals that do not differ matter under one of them only.

    Returns:
        The doubts.
    """
    present = {name: pairs for name, pairs in splits.items() if len(pairs)}
    found = []
    for name, pairs in present.items():
        if ablation == "counterfactual":
            found += _some_the_same(name, pairs)
        found += [*_unknown(name, pairs, tokenizer), *_unlike_spaces(name, pairs, tokenizer), *_repeated(name, pairs)]
    found += _shared(present)
    return [Finding(name=name, severity="doubt", text=text) for name, text in found]


def _some_the_same(name: str, pairs: EncodedPairs) -> Iterator[tuple[str, str]]:
    same = same_tokens(pairs)
    if any(same):
        yield (
            "same-tokens",
            (
                f"{sum(same):,} of {len(same):,} {name} prompts have the same tokens as their counterfactual"
                f"{_example(pairs, same.index(True))}: every circuit is perfect on them. Leave them "
                "out, or change a token."
            ),
        )


def _repeated(name: str, pairs: EncodedPairs) -> Iterator[tuple[str, str]]:
    """Prompts that repeat another one of their split, with the same counterfactual or another."""
    n_distinct = len(set(pairs.prompt_keys))
    if n_distinct < len(pairs):
        yield (
            "repeated-prompts",
            (
                f"{len(pairs):,} {name} prompts are {n_distinct:,} different ones: intervals, which take prompts for "
                "independent, are too narrow, and what the full model says on a prompt counts as often as it stands "
                "there. Leave repeats out, or read the intervals as a lower limit."
            ),
        )


def unknown_prompts(pairs: EncodedPairs, tokenizer: object) -> dict[str, list[int]]:
    """Prompts with a token that stands for what the tokenizer does not know.

    Args:
        pairs: The prompts.
        tokenizer: The model's. One token may stand for the unknown and for the beginning of a text; a first token is
            never taken for an unknown one then.

    Returns:
        Indices of prompts, by where the token is: `prompt` (either side), `answer` (right or wrong).
    """
    unknown, begin = getattr(tokenizer, "unk_token_id", None), getattr(tokenizer, "bos_token_id", None)
    if unknown is None:
        return {"prompt": [], "answer": []}
    first = 1 if unknown == begin else 0
    sides = (pairs.clean_ids, pairs.corrupted_ids)
    answers = [column for column in (pairs.answer_ids, pairs.correct_ids, pairs.wrong_ids) if column is not None]
    return {
        "prompt": [i for i in range(len(pairs)) if any((side[i][first:] == unknown).any() for side in sides)],
        "answer": [i for i in range(len(pairs)) if any((column[i] == unknown).any() for column in answers)],
    }


def _unknown(name: str, pairs: EncodedPairs, tokenizer: object) -> Iterator[tuple[str, str]]:
    for where, found in unknown_prompts(pairs, tokenizer).items():
        if found:
            yield (
                "unknown-tokens",
                (
                    f"{len(found):,} of {len(pairs):,} {name} prompts have words in the {where} that "
                    "the tokenizer does "
                    f"not know{_example(pairs, found[0])}: all unknown words are one token to the "
                    "model. Use words of its "
                    "vocabulary."
                ),
            )


def _unlike_spaces(name: str, pairs: EncodedPairs, tokenizer: object) -> Iterator[tuple[str, str]]:
    """Right and wrong answers of which some begin a word and some do not."""
    written = getattr(tokenizer, "convert_ids_to_tokens", None)
    if written is None or pairs.correct_ids is None or pairs.wrong_ids is None:
        return
    tokens = sorted({int(one) for column in (pairs.correct_ids, pairs.wrong_ids) for ids in column for one in ids})
    begins = {one: str(text).startswith(_SPACES) for one, text in zip(tokens, written(tokens), strict=True)}
    unlike = [
        index
        for index, (right, wrong) in enumerate(zip(pairs.correct_ids, pairs.wrong_ids, strict=True))
        if len(right) and len(wrong) and len({begins[int(one)] for one in (*right, *wrong)}) > 1
    ]
    if unlike:
        yield (
            "answers-of-unlike-spacing",
            (
                f"in {len(unlike):,} of {len(pairs):,} {name} prompts right and wrong answers differ "
                "in their leading space"
                f"{_example(pairs, unlike[0])}: the comparison is of spelling, not of words. Write them alike."
            ),
        )


def _shared(splits: Mapping[str, EncodedPairs]) -> Iterator[tuple[str, str]]:
    """Prompts of the same tokens in two splits; splits that hold all the same prompts are meant so."""
    kept = {name: _asked(pairs) for name, pairs in splits.items()}
    for one, other in combinations(kept, 2):
        both = set(kept[one]) & set(kept[other])
        if both and set(kept[one]) != set(kept[other]):
            index = next(i for i, tokens in enumerate(kept[other]) if tokens in both)
            n = sum(tokens in both for tokens in kept[other])
            yield (
                "shared-between-splits",
                (
                    f"{n:,} of {len(kept[other]):,} {other} prompts are also {one} prompts, by their tokens"
                    f"{_example(splits[other], index)}: figures on them say nothing of new prompts. "
                    "Remove them from one."
                ),
            )


def _asked(pairs: EncodedPairs) -> list[bytes]:
    """Each prompt's tokens up to where the answer is asked."""
    return [
        np.asarray(ids[: int(asked[0]) + 1], dtype=np.int64).tobytes()
        for ids, asked in zip(pairs.clean_ids, pairs.predict_positions, strict=True)
    ]


def _example(pairs: EncodedPairs, index: int) -> str:
    """A prompt to look at, cut."""
    if not pairs.texts:
        return f" (the first: prompt {index})"
    text = pairs.texts[index]
    return f" (the first: {text if len(text) <= 60 else text[:57] + '…'!r})"
