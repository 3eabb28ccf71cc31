"""Prompt pairs as token ids, and batches of them.

Second step of the flow: `encode_pairs` turns `PromptPairs` into `EncodedPairs`; `EncodedPairs.batch` makes
the `PairBatch` that a masked forward pass reads.

How a pair becomes tokens:

1. Spaces that end a prompt belong to the answer: `"… is <predict>Paris</predict>"` and
   `"… is<predict> Paris</predict>"` are the same text and give the same tokens.
2. Prompt alone and prompt with answer are tokenised. The second must begin with the first: what is left
   are the answer's tokens. A tokenizer that merges across the boundary makes the pair unusable, which is
   an error (or drops it). Nothing is assumed about how an answer alone would be tokenised.
3. The corrupted prompt must be as long as the clean one and leave the same answer tokens.
4. The model reads prompt and answer but its last token; the answer's first token is asked at the prompt's
   last position.

A model that fills in masks reads a mask instead of each of the answer's tokens, then what follows the answer, and what
its tokenizer puts behind a text; each token is asked at its mask. Whether a model is one is told from its tokenizer
(see `PromptEncoder.fills_masks`), and `pruning.prompts.runnable` refuses prompts that do not fit the model.

With a chat template the prompt is the user's message, and the answer, without leading spaces, begins the
assistant's. What comes before the prompt is `pruning.prompts.encoder`'s.

What tokens alone can tell of a data set lies beside them, as plain data: which pairs differ at all (`differs`), how
much the tokenizer did not know (`unknown`), which answers look wrongly spaced (`spacing`), the largest ids and the
greatest length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitgraph.batch import PairBatch
from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.batches import pair_batch
from pruning.prompts.encoded_rows import EncodedRow, encode_rows, remarks
from pruning.prompts.encoder import PromptEncoder
from pruning.prompts.pairs import PromptPair
from pruning.prompts.spacing import Respelling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """Prompt pairs as token ids, unpadded.

    Attributes:
        clean_ids: One int64 array a prompt: the prompt's tokens, then the answer's but the last.
        corrupted_ids: The counterfactuals, of the same lengths.
        predict_positions: The positions whose output is asked.
        answer_ids: The right token at each asked position, or None for numeric outputs.
        answer_values: The right number at each asked position, or None for token outputs.
        correct_ids: Right tokens at the first asked position, or None.
        wrong_ids: Wrong tokens at the first asked position, or None.
        corrupted_answers: The counterfactuals' own answers, tokens or numbers as the answers are; None if any is not
            known. Not part of the hash: they are asked only where the sides are swapped.
        texts: Each clean prompt before its answer, with `…` and what follows where text follows it.
        groups: Each prompt's group; empty means none has one.
        corrupted_texts: Each counterfactual before the answer; empty if it has no text.
        notes: What was left out while encoding, and why; not part of the hash.
        sources: Where each prompt came from, such as a file's line; empty, or "" for a prompt, where that is not
            known.
        prompt_lengths: How many of `clean_ids` come before the answer, or all where masks stand for it; empty if the
            prompts are no text with an answer.
        unknown: How many unknown tokens, and characters that the tokenizer drops, are in each prompt's sides and
            answers; empty if not counted.
        spacing: For each prompt, the answer as it was probably meant where its spaces look wrong, else None; empty
            if not looked for.
        spans: For each prompt, the names of its spans with the position at which each begins; empty if there are none.
        divided_by: Names of all spans, in order, where batches are to say which token is in which; see
            `pruning.prompts.spans`.

    Raises:
        PromptFormatError: Arrays that do not fit together, or numbers that can be no token's.

    Examples:
        >>> from circuitgraph import load_model
        >>> from pruning import load_task
        >>> pairs = load_task("tracr-reverse", load_model("tracr:reverse").tokenizer).split("test")
        >>> pairs.texts[0], pairs.subset(range(2)).lengths.tolist()
        ('BOS 1', [2, 2])
    """

    clean_ids: tuple[np.ndarray, ...]
    corrupted_ids: tuple[np.ndarray, ...]
    predict_positions: tuple[np.ndarray, ...]
    answer_ids: tuple[np.ndarray, ...] | None = None
    answer_values: tuple[np.ndarray, ...] | None = None
    correct_ids: tuple[np.ndarray, ...] | None = None
    wrong_ids: tuple[np.ndarray, ...] | None = None
    corrupted_answers: tuple[np.ndarray, ...] | None = None
    texts: tuple[str, ...] = ()
    groups: tuple[str | None, ...] = ()
    corrupted_texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    prompt_lengths: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    spacing: tuple[Respelling | None, ...] = ()
    spans: tuple[tuple[tuple[str, int], ...], ...] = ()
    divided_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that all columns have the same number of prompts and each prompt's arrays fit."""
        for name in (*_COLUMNS, "corrupted_answers"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self):
                raise PromptFormatError(f"{name} has {len(column)} entries for {len(self)} prompts")
        for index in range(len(self)):
            self._check_prompt(index)
        for name in _REMARKS:
            column = getattr(self, name)
            if column and len(column) != len(self):
                raise PromptFormatError(f"{name} has {len(column)} entries for {len(self)} prompts")
        for name in _COLUMNS:
            _check_numbers(name, getattr(self, name))
        if not self.groups:
            object.__setattr__(self, "groups", (None,) * len(self))

    def _check_prompt(self, index: int) -> None:
        """Check one prompt's lengths and asked positions."""
        clean, corrupted = self.clean_ids[index], self.corrupted_ids[index]
        asked = self.predict_positions[index]
        if len(clean) != len(corrupted):
            raise PromptFormatError(
                f"prompt {index}: {len(clean)} clean tokens but {len(corrupted)} corrupted ones; "
                "both sides must have the same length"
            )
        if len(asked) == 0 or asked.min() < 0 or asked.max() >= len(clean):
            raise PromptFormatError(
                f"prompt {index}: asked positions {asked.tolist()} must be at least one, "
                f"all within its {len(clean)} tokens"
            )
        for answers in (self.answer_ids, self.answer_values):
            if answers is not None and len(answers[index]) != len(asked):
                raise PromptFormatError(
                    f"prompt {index}: {len(answers[index])} answers for {len(asked)} asked positions"
                )

    def __len__(self) -> int:
        """Count the prompts."""
        return len(self.clean_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Each prompt's number of tokens, int64."""
        return np.array([len(ids) for ids in self.clean_ids], dtype=np.int64)

    @cached_property
    def by_length(self) -> dict[int, np.ndarray]:
        """The prompts of each length, the shortest first, as rising indices."""
        lengths = self.lengths
        return {int(length): np.flatnonzero(lengths == length) for length in np.unique(lengths)}

    @property
    def longest(self) -> int:
        """The greatest number of tokens, 0 where there is no prompt."""
        return int(self.lengths.max(initial=0))

    @cached_property
    def differs(self) -> np.ndarray:
        """Whether each prompt's two sides differ in any token, bool; where not, the counterfactual changes nothing."""
        sides = zip(self.clean_ids, self.corrupted_ids, strict=True)
        return np.array([not np.array_equal(clean, corrupted) for clean, corrupted in sides], dtype=bool)

    @cached_property
    def highest_input_ids(self) -> np.ndarray:
        """The largest id that each prompt reads, on either side, int64; a model must have an embedding for it."""
        return _highest([self.clean_ids, self.corrupted_ids], len(self))

    @cached_property
    def highest_output_ids(self) -> np.ndarray:
        """The largest id among each prompt's answers, right and wrong, int64; -1 where the outputs are numbers."""
        return _highest([self.answer_ids, self.correct_ids, self.wrong_ids], len(self))

    @cached_property
    def prompt_keys(self) -> tuple[bytes, ...]:
        """What tells prompts apart: the clean tokens before the answer, or, where the prompts are no text, all."""
        if self.prompt_lengths:
            cut = zip(self.clean_ids, self.prompt_lengths, strict=True)
            return tuple(np.asarray(ids[:length], dtype=np.int64).tobytes() for ids, length in cut)
        asked = zip(self.clean_ids, self.predict_positions, strict=True)
        return tuple(np.concatenate([[len(ids)], ids, at]).astype(np.int64).tobytes() for ids, at in asked)

    def where(self, index: int) -> str:
        """Say which prompt is meant, for messages: its file and line, else its text, else its number.

        Args:
            index: A prompt's number.
        """
        if self.sources and self.sources[index]:
            return self.sources[index]
        return f"prompt {self.texts[index]!r}" if self.texts else f"prompt {index}"

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over every token id, asked position and answer."""
        digest = hashlib.sha256()
        for name in _COLUMNS:
            column = getattr(self, name)
            digest.update(f"{name}:{'none' if column is None else len(column)};".encode())
            for array in column or ():
                kind = "<f8" if name == "answer_values" else "<i8"
                digest.update(f"{len(array)},".encode() + np.asarray(array).astype(kind).tobytes())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int] | np.ndarray) -> EncodedPairs:
        """Take some of the prompts, in the order given.

        Args:
            indices: Which prompts.

        Returns:
            A new data set; notes are kept.
        """
        chosen = [int(index) for index in indices]
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken = {
            name: tuple(column[index] for index in chosen) if column else column
            for name, column in columns.items()
            if name not in ("notes", "divided_by")
        }
        return EncodedPairs(**taken, notes=self.notes, divided_by=self.divided_by)

    def first(self, n: int) -> EncodedPairs:
        """Take the first prompts.

        Args:
            n: How many at most; all where there are fewer.
        """
        return self.subset(range(min(n, len(self))))

    def swapped(self) -> EncodedPairs:
        """The prompts and their counterfactuals the other way round; see `pruning.prompts.swapped`."""
        from pruning.prompts.swapped import swapped_pairs

        return swapped_pairs(self)

    def batch(
        self,
        indices: Iterable[int] | np.ndarray,
        *,
        pad_id: int = 0,
        side: str = "right",
        device: torch.device | str = "cpu",
    ) -> PairBatch:
        """Pad some of the prompts into one batch.

        Args:
            indices: Which prompts, in this order.
            pad_id: The id at padding; it is masked, so any id of the vocabulary will do.
            side: The side that padding lies on, `right` or `left`.
            device: Where the tensors go.

        Returns:
            The batch; its `index` holds `indices`.

        Raises:
            ConfigurationError: An unknown side, or no prompt.
        """
        return pair_batch(self, indices, pad_id=pad_id, side=side, device=device)


_COLUMNS = (
    "clean_ids",
    "corrupted_ids",
    "predict_positions",
    "answer_ids",
    "answer_values",
    "correct_ids",
    "wrong_ids",
)
_REMARKS = ("texts", "groups", "corrupted_texts", "sources", "prompt_lengths", "unknown", "spacing", "spans")


def _check_numbers(name: str, column: tuple[np.ndarray, ...] | None) -> None:
    """Refuse ids that are no whole numbers from 0, and answers that are no numbers."""
    if not column:
        return
    numbers = np.concatenate([np.asarray(array) for array in column])
    if name == "answer_values":
        if not np.isfinite(numbers).all():
            raise PromptFormatError("answer_values holds NaN or infinity; every asked position needs a number")
    elif numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise PromptFormatError(f"{name} must hold whole numbers, got {numbers.dtype}")
    elif numbers.size and numbers.min() < 0:
        raise PromptFormatError(f"{name} holds {numbers.min()}; ids and positions are 0 or more")


def _highest(columns: list[tuple[np.ndarray, ...] | None], n_prompts: int) -> np.ndarray:
    """The largest number of each prompt over several columns, -1 where there is none."""
    given = [column for column in columns if column is not None]
    return np.array(
        [max((int(column[at].max(initial=-1)) for column in given), default=-1) for at in range(n_prompts)],
        dtype=np.int64,
    )


def encode_pairs(
    pairs: Iterable[PromptPair], tokenizer: PreTrainedTokenizerBase, *, chat_template: bool = False,
    bos: str = "auto", align: str = "error",
) -> EncodedPairs:  # fmt: skip
    """Tokenise prompt pairs.

    Args:
        pairs: The pairs.
        tokenizer: A Hugging Face tokenizer.
        chat_template: Whether the prompt is wrapped as a user's message; by default it is not.
        bos: `auto` (what the tokenizer puts before a text by itself, the default), `yes` or `no`.
        align: What happens to a pair whose sides differ in token length, or whose answer's tokens are not
            well defined: `error` raises, `drop` leaves it out and says so in `notes`.

    Returns:
        The token ids. A right or wrong alternative whose text the tokenizer merges with the prompt's end is
        left out of its set (it could not be written there), and `notes` counts them.

    Raises:
        PromptFormatError: A pair that cannot be used, naming its file and line or its index; or no pair.
        ConfigurationError: An unknown option, or one that the tokenizer cannot follow.
    """
    if align not in ("error", "drop"):
        raise ConfigurationError(f"align must be 'error' or 'drop', got {align!r}")
    encoder = PromptEncoder(tokenizer=tokenizer, chat_template=chat_template, bos=bos)
    listed = list(pairs)
    if not listed:
        raise PromptFormatError("no prompt pairs to encode")
    rows, problems = encode_rows(listed, encoder)
    if problems and (align == "error" or not rows):
        more = f" (and {len(problems) - 1} more pairs)" if len(problems) > 1 else ""
        raise PromptFormatError(problems[0] + more)
    return columns(rows, (*(f"dropped: {problem}" for problem in problems), *remarks(rows)))


def _has_own(row: EncodedRow) -> bool:
    return bool(row.corrupted_answer)


def _text(before: str, after: str) -> str:
    """A prompt without its answer, whose place is marked where text follows."""
    return f"{before} …{after}" if after else before


def columns(rows: list[EncodedRow], notes: tuple[str, ...]) -> EncodedPairs:
    """Turn usable pairs into columns."""

    def column(take: Callable[[EncodedRow], Sequence[int]]) -> tuple[np.ndarray, ...]:
        return tuple(np.array(take(row), dtype=np.int64) for row in rows)

    return EncodedPairs(
        clean_ids=column(lambda row: row.sides[0]),
        corrupted_ids=column(lambda row: row.sides[1]),
        predict_positions=column(lambda row: row.asked),
        answer_ids=column(lambda row: row.answer),
        correct_ids=column(lambda row: row.correct),
        wrong_ids=column(lambda row: row.wrong) if any(row.wrong for row in rows) else None,
        corrupted_answers=column(lambda row: row.corrupted_answer) if all(map(_has_own, rows)) else None,
        texts=tuple(_text(row.pair.clean, row.pair.clean_after) for row in rows),
        groups=tuple(row.pair.group for row in rows),
        corrupted_texts=tuple(_text(row.pair.corrupted, row.pair.corrupted_after) for row in rows),
        notes=notes,
        sources=tuple(row.pair.source for row in rows),
        prompt_lengths=tuple(len(row.clean if row.mask is None else row.sides[0]) for row in rows),
        unknown=tuple(row.unknown for row in rows),
        spacing=tuple(row.spacing for row in rows),
        spans=tuple(row.spans for row in rows) if any(row.spans for row in rows) else (),
    )
